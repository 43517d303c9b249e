"""What `flambeau tune` asks the measuring process for. Pure: the commands import it."""

from pathlib import Path

import msgspec

from flambeau.handlers.settings import PrecisionChoice


class TuneRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A model, the texts to measure with, and how near to the model an engine must be.

    `archive` is what the user named, beside which the verdict is kept; its files lie in
    `model_dir`. `texts` has one input per line; None: built-in ones. `agreement` is the least share
    of equal labels and `max_difference` the largest one between two probabilities.
    """

    archive: Path
    model_dir: Path
    threads: int
    texts: Path | None = None
    precision: PrecisionChoice = "auto"
    agreement: float = 0.995
    max_difference: float = 0.1
