"""Files of the operator's that count from the moment they change: certificates, named tokens."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

SECONDS = 1.0
"""Between two looks. A change counts when a look finds no further one: two files are seldom
replaced in the same moment."""

_Signature = tuple[int, int, int, int]


class Watch:
    """Looks at files now and then. Make it before they are read: no change is missed."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = [file.absolute() for file in files]
        self._known = self._look()

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Call `changed`, which raises nothing, after each change; runs until it is cancelled."""
        seen = self._known
        while self._files:
            await asyncio.sleep(SECONDS)
            now = await asyncio.to_thread(self._look)  # the files' disk may be a network away
            if now == seen and now != self._known:
                self._known = now
                await changed()
            seen = now

    def _look(self) -> list[_Signature | None]:
        return [_signature(file) for file in self._files]


def _signature(file: Path) -> _Signature | None:
    """What changes with a file's text and mode, None where it is missing; links are followed."""
    try:
        told = file.stat()
    except OSError:
        return None
    return told.st_mtime_ns, told.st_ctime_ns, told.st_size, told.st_ino
