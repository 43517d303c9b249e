"""The proving ground's commands; see docs/trust.md.

python -m tests.trust list
python -m tests.trust t8 [--seed 1] [--nightly] [--control no-retry]
python -m tests.trust all [--nightly] [--controls] [--record]
"""

import argparse
import sys

import msgspec

from tests.trust.everything import run_everything
from tests.trust.running import run_suite
from tests.trust.suite import Profile, load_suite, suite_names


def main() -> int:
    """Run what the arguments name; the exit code is 0 where everything is as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust")
    parser.add_argument("what", choices=["list", "all", *suite_names()], metavar="SUITE|all|list")
    parser.add_argument("--seed", type=int, default=1, help="repeats a run (default: 1)")
    parser.add_argument("--nightly", action="store_true", help="the long profile")
    parser.add_argument("--control", metavar="FLAW", help="with this flaw; it must be noticed")
    parser.add_argument("--controls", action="store_true", help="with `all`: every flaw, too")
    parser.add_argument("--record", action="store_true", help="with `all`: into docs/trust.md")
    arguments = parser.parse_args()
    if arguments.what == "list":
        for name in suite_names():
            suite = load_suite(name)
            flaws = ", ".join(suite.controls)
            print(f"{name:4} {suite.title:20} {' '.join(suite.promises):24} controls: {flaws}")
        return 0
    profile: Profile = "nightly" if arguments.nightly else "push"
    if arguments.what == "all":
        return run_everything(
            arguments.seed, profile, controls=arguments.controls, record=arguments.record
        )
    if arguments.control and arguments.control not in load_suite(arguments.what).controls:
        parser.error(f"{arguments.what} has no control {arguments.control!r}")
    line = run_suite(arguments.what, arguments.seed, profile, arguments.control)
    print(msgspec.json.encode(line).decode(), flush=True)
    return 0 if line.ok else 1


if __name__ == "__main__":
    sys.exit(main())
