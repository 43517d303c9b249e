"""What an archive may hold: limits, members, and the table that finds clashes between entries."""

from collections.abc import Iterator, Sequence

import msgspec

from flambeau.archive.names import collision_key, shown
from flambeau.errors import ArchiveError

MEBIBYTE = 1024 * 1024
CHUNK_BYTES = MEBIBYTE


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Caps on what an archive may unpack to. All of them are checked while bytes arrive.

    An archive may grow to `ratio` times its own size, or to `ratio_floor_bytes` if that is more,
    and never beyond `total_bytes`. `name_bytes` is for one part of a path, in UTF-8.
    """

    entries: int = 10_000
    total_bytes: int = 64 * 1024 * MEBIBYTE
    ratio: int = 200
    ratio_floor_bytes: int = 64 * MEBIBYTE
    depth: int = 16
    name_bytes: int = 255

    def unpacked_bytes(self, archive_bytes: int) -> int:
        """Return how many bytes an archive of `archive_bytes` may unpack to."""
        by_ratio = max(self.ratio_floor_bytes, self.ratio * archive_bytes)
        return min(self.total_bytes, by_ratio)


class Member(msgspec.Struct, frozen=True):
    """One file or folder of an archive while it is read.

    `chunks` is the file's content; it must be used up before the next member is asked for.
    """

    parts: tuple[str, ...]
    is_folder: bool
    chunks: Iterator[bytes]


class _Claim(msgspec.Struct):
    """A path that is taken, and whether an entry named it or only lies below it."""

    path: str
    is_folder: bool
    named: bool


class EntryTable:
    """The entries of one archive so far. Refuses what could overwrite or hide another entry."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._entries = 0
        self._claims: dict[str, _Claim] = {}

    def add(self, parts: Sequence[str], *, is_folder: bool) -> None:
        """Take the path `parts`; raise `ArchiveError` if it clashes or breaks a limit."""
        self._entries += 1
        if self._entries > self._limits.entries:
            raise ArchiveError(f"it has more than {self._limits.entries} entries")
        path = "/".join(parts)
        if len(parts) > self._limits.depth:
            raise ArchiveError(
                f"the entry {shown(path)} lies more than {self._limits.depth} folders deep"
            )
        if any(len(part.encode()) > self._limits.name_bytes for part in parts):
            raise ArchiveError(
                f"the entry {shown(path)} has a name of more than {self._limits.name_bytes} bytes"
            )
        for depth in range(1, len(parts)):
            self._claim("/".join(parts[:depth]), is_folder=True, named=False)
        self._claim(path, is_folder=is_folder, named=True)

    def _claim(self, path: str, *, is_folder: bool, named: bool) -> None:
        claim = self._claims.setdefault(
            collision_key(path), _Claim(path=path, is_folder=is_folder, named=False)
        )
        if claim.path != path:
            raise ArchiveError(
                f"the entries {shown(claim.path)} and {shown(path)} differ only in case or accents"
            )
        if claim.is_folder != is_folder:
            raise ArchiveError(f"the entry {shown(path)} is both a file and a folder")
        if claim.named and named:
            raise ArchiveError(f"the entry {shown(path)} is there twice")
        claim.named = claim.named or named
