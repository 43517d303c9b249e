"""The front-end processes of a server with `http_workers`."""

import os
from collections.abc import Collection
from pathlib import Path

from flambeau.testing.echo import children

TWO = 2


def front_ends(parent: int | None = None, *, but: Collection[int] = ()) -> list[int]:
    """Front-end processes below a process that are alive, without those of other servers."""
    found = []
    for pid in children(parent or os.getpid()) - set(but):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        if "flambeau.frontend.process" in command:
            found.append(pid)
    return found
