"""The `torchserve` command with the flaw, if any, that the suite's control has put in force."""

import sys

from flambeau.cli.torchserve import main
from tests.trust.opened import report_opened
from tests.trust.running import apply_flaw

if __name__ == "__main__":
    apply_flaw()
    report_opened()
    sys.exit(main())
