"""How much memory a worker may have, and how it ends when it has none left."""

import os
import resource
import sys
from typing import NoReturn

from flambeau.ipc.messages import OUT_OF_MEMORY_EXIT


def limit_memory(limit: int) -> None:
    """Let allocations beyond `limit` bytes fail; 0: no limit.

    What counts is what this process could write to and does not share: heaps, stacks, arrays, also
    while they are untouched; of a template's fork, what it has inherited, too. Files that are
    mapped for reading, such as weights, do not count.
    """
    if not limit:
        return
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def end_without_memory() -> NoReturn:
    """End this process, whose own threads cannot go on; the server is told by the exit code."""
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"The worker ends: no memory left\n")
    os._exit(OUT_OF_MEMORY_EXIT)
