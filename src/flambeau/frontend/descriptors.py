"""File descriptors: clients get all but the last few, so that workers and files can still be had.

A server that has none left cannot replace a worker, open an archive or write a snapshot.
"""

import contextlib
import resource

RESERVE = 64
"""Descriptors that no client gets, or a quarter of them where there are not many."""


def is_scarce(descriptor: int) -> bool:
    """Whether a connection that has this descriptor has taken one of the last.

    The system gives the lowest free number away, so the number tells how many are in use, whoever
    uses them. The limit is read each time: an operator may raise it (`prlimit`) without a restart.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return False
    return descriptor >= limit - min(RESERVE, limit // 4)


def raise_limit() -> None:
    """Let this process and its children have as many as they may: often 1,024 are the default, and
    half a million allowed. TorchServe's JVM does the same."""
    with contextlib.suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
