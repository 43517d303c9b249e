"""What ties a process to its server below Python: it dies with it, and leaves its last words there.

The server reads one end of a pipe, the process holds the other. When the server is gone, however
that came about, the kernel kills the process and its group, even if it is stopped, hangs in native
code or holds the interpreter's lock. Into the pipe faulthandler writes: the stack of a fatal
signal, and the stacks of all threads when the server asks for them with `DUMP_SIGNAL`.

Nothing but last words may go through the pipe: a server that reads is one that ends the process.
"""

import contextlib
import faulthandler
import fcntl
import os
import select
import signal
import sys
from pathlib import Path

from flambeau.ipc.messages import DUMP_SIGNAL

_VICTIM_SCORE = 500
"""How much sooner, in thousandths of memory, the kernel's OOM killer takes a worker than a server."""

_held: list[int] = []


def hold_lifeline(descriptor: int) -> None:
    """Tie this process, and what it starts, to the server at the other end of a pipe.

    Makes it the leader of a process group, all of which dies with the server: children that leave
    the group do not.
    """
    for old in _held:  # of the process that this one was forked from
        os.close(old)
    _held[:] = [descriptor]
    os.set_inheritable(descriptor, False)
    with contextlib.suppress(PermissionError):  # the leader of a session leads its group already
        os.setpgid(0, 0)
    faulthandler.enable(file=descriptor, all_threads=False)
    faulthandler.register(DUMP_SIGNAL, file=descriptor, all_threads=True, chain=False)
    if sys.platform != "linux":
        return  # the thread that reads the server's socket notices its end
    with contextlib.suppress(OSError):  # a kernel that is emulated
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
    poll = select.poll()
    poll.register(descriptor, 0)  # its error alone, which is always told
    if poll.poll(0):
        os._exit(0)  # the server had gone before


def go_first() -> None:
    """Let the kernel's OOM killer take this process before the server."""
    with contextlib.suppress(OSError, ValueError):  # no Linux, or no such file in a sandbox
        score = Path("/proc/self/oom_score_adj")
        score.write_text(str(min(int(score.read_text()) + _VICTIM_SCORE, 1000)))
