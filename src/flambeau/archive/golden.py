"""Golden outputs: inputs with the answers that a model is to give, kept in its archive.

They lie in `MAR-INF/golden.json`, which TorchServe unpacks and never looks at. A worker checks them
when it has loaded the model (`flambeau.handlers.golden`). Pure: `flambeau pack` reads samples here.
"""

import json
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from flambeau.errors import ArchiveError

GOLDEN_PATH = PurePosixPath("MAR-INF/golden.json")

MAX_SAMPLES = 64
"""A worker runs all of them before it is ready."""

MAX_BYTES = 1024 * 1024
"""Of the file of samples, and of the one in the archive."""


class Sample(msgspec.Struct, frozen=True):
    """A request's body, as JSON, and its whole answer."""

    input: Any
    output: Any


class Golden(msgspec.Struct, frozen=True):
    """What an archive holds. `versions` are those of the packages that gave the answers."""

    samples: list[Sample]
    versions: dict[str, str] = {}


class Wanted(msgspec.Struct, frozen=True):
    """One line of a file of samples. Without an `output` the model itself is to give it."""

    line: int
    input: Any
    output: Any = msgspec.UNSET


def read_samples(file: Path) -> list[Wanted]:
    """Read a file with one sample a line: a request's body, or `{"input": body, "output": answer}`.

    Empty lines are left out. Raises `ArchiveError` that names the file and the line.
    """
    samples = []
    for number, line in enumerate(_read(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise ArchiveError(
                f'{file}, line {number} is no JSON: {reason}. A text is written "in quotes".'
            ) from error
        if isinstance(value, dict) and "input" in value and value.keys() <= {"input", "output"}:
            samples.append(Wanted(number, value["input"], value.get("output", msgspec.UNSET)))
        else:
            samples.append(Wanted(number, value))
    if not samples:
        raise ArchiveError(f"{file} has no samples: write one request's body a line, as JSON")
    if len(samples) > MAX_SAMPLES:
        raise ArchiveError(
            f"{file} has {len(samples)} samples; an archive may have {MAX_SAMPLES}, since each is"
            " run whenever the model is loaded"
        )
    return samples


def read_golden(model_dir: Path) -> Golden | None:
    """The golden outputs of an unpacked archive, None if it has none. Raises `ArchiveError`."""
    file = model_dir / GOLDEN_PATH
    if not file.exists():
        return None
    try:
        golden = msgspec.json.decode(_read(file), type=Golden)
    except msgspec.DecodeError as error:
        raise ArchiveError(f"{GOLDEN_PATH} cannot be read: {error}") from error
    if len(golden.samples) > MAX_SAMPLES:
        raise ArchiveError(f"{GOLDEN_PATH} has more than {MAX_SAMPLES} samples")
    return golden


def write_golden(file: Path, golden: Golden) -> None:
    """Write golden outputs. Raises `OSError`, and `ArchiveError` where they are too large."""
    text = msgspec.json.format(msgspec.json.encode(golden), indent=1)
    if len(text) > MAX_BYTES:
        raise ArchiveError(
            f"the samples have {len(text)} bytes with their answers; {MAX_BYTES} are allowed."
            " Leave some out"
        )
    file.write_bytes(text)


def _read(file: Path) -> str:
    try:
        if not file.is_file():
            raise ArchiveError(f"There is no file {file}.")
        if file.stat().st_size > MAX_BYTES:
            raise ArchiveError(f"{file} has more than {MAX_BYTES} bytes")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{file} cannot be read: {error}") from error


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number")
