"""What `flambeau pack --engine` asks the exporting process for. Pure: the commands import it."""

from pathlib import Path

import msgspec

from flambeau.archive.graphs import Form
from flambeau.types import TaskName


class ExportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A model's folder, the forms to make of it and the folder, already there, to write them to.

    `max_length` is the longest text, in tokens, that will be served; None: what the model reads.
    """

    folder: Path
    task: TaskName
    forms: tuple[Form, ...]
    output: Path
    max_length: int | None = None
