"""What `flambeau pack --golden` asks the answering process for. Pure: the commands import it."""

from pathlib import Path

import msgspec


class GoldenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A file of samples and the unpacked archive that answers them, for the file `output`.

    Paths are whole ones, but that of the samples, which is told as the user wrote it.
    `archive` is what will be served where that is not the `reference`: it must agree.
    """

    samples: Path
    reference: Path
    output: Path
    archive: Path | None = None
