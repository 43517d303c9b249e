"""A server that is about to make an object of a pickle ends instead; other work goes on."""

import subprocess
import sys

from flambeau.frontend.tripwire import TRIPPED

ARM = "import json, pickle; from flambeau.frontend import tripwire; tripwire.arm()\n"


def test_a_process_that_unpickles_an_object_ends_and_says_why() -> None:
    code = ARM + "pickle.loads(b'cos\\ngetpid\\n(tR.')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == TRIPPED
    assert "'os', 'getpid'" in done.stderr


def test_a_process_that_reads_data_lives() -> None:
    done = subprocess.run([sys.executable, "-c", ARM + "json.loads('[1]'); import decimal"])
    assert done.returncode == 0
