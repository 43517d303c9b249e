"""What `flambeau tune` found out about a model, kept beside its archive as `<archive>.tune.json`.

A verdict holds for the weights, the packages and the kind of CPU that it was measured with; with
others there is none. Pure: the server reads it to know what a model's workers will need.
"""

import hashlib
import importlib.metadata
import logging
from pathlib import Path

import msgspec

from flambeau import __version__
from flambeau.archive.golden import GOLDEN_PATH
from flambeau.archive.staging import staged_file
from flambeau.errors import ConfigError
from flambeau.types import Precision

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "onnxruntime", "openvino")
"""Whose versions decide how fast, and what, an engine computes."""

_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".onnx", ".onnx_data", ".data", ".xml"})
_SAMPLES = 64
_SAMPLE_BYTES = 65_536


class Candidate(msgspec.Struct, frozen=True):
    """One engine in one precision: its speed, and how near it is to the torch engine in fp32.

    Times are of one text, in milliseconds. `labels` is the share of equal labels, `difference` the
    largest one between probabilities, `cosine` the smallest between two texts' scores. `accepted`:
    they keep to the thresholds that were given.
    """

    engine: str
    precision: Precision
    cpu_ms: float
    wall_ms: float
    labels: float
    difference: float
    cosine: float
    accepted: bool


class Verdict(msgspec.Struct, frozen=True):
    """All candidates that ran, and what they were measured with."""

    weights: str
    versions: dict[str, str]
    cpu: str
    threads: int
    texts: int
    candidates: list[Candidate]

    def best(self, precision: Precision | None, *, any_precision: bool = False) -> Candidate | None:
        """The fastest accepted candidate: of one precision, fp32 for None, or of any."""
        wanted = precision or "fp32"
        allowed = [
            one
            for one in self.candidates
            if one.accepted and (any_precision or one.precision == wanted)
        ]
        return min(allowed, key=lambda one: one.cpu_ms, default=None)


def verdict_file(archive: Path) -> Path:
    """Where the verdict on an archive lies; the archive may be a folder."""
    return archive.with_name(f"{archive.name}.tune.json")


def write_verdict(archive: Path, verdict: Verdict) -> Path:
    """Keep a verdict; returns its file. Raises `ConfigError` where that cannot be written."""
    file = verdict_file(archive)
    try:
        with staged_file(file) as written:
            written.write(msgspec.json.format(msgspec.json.encode(verdict)) + b"\n")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}") from error
    return file


def read_verdict(archive: Path, model_dir: Path) -> Verdict | None:
    """The verdict on an archive that is unpacked in `model_dir`, if there is one and it holds.

    A log line says why one does not hold. Reads a few megabytes: not for an event loop.
    """
    file = verdict_file(archive)
    if not file.is_file():
        file = verdict_file(archive.resolve())  # beside what a link in the store leads to
    try:
        verdict = msgspec.json.decode(file.read_bytes(), type=Verdict)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        logger.warning("%s cannot be read: %s", file.name, error)
        return None
    reasons = {
        "weights": verdict.weights == weights_fingerprint(model_dir),
        "packages": verdict.versions == versions(),
        "CPU": verdict.cpu == cpu_name(),
    }
    other = [name for name, same in reasons.items() if not same]
    if other:
        logger.warning(
            "%s was measured with other %s and is not used. Run flambeau tune again.",
            file.name,
            " and ".join(other),
        )
        return None
    return verdict


def versions() -> dict[str, str]:
    """Flambeau's version and those of the packages that are installed."""
    found = {"flambeau": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """What the processor calls itself, "" where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "")


def weights_fingerprint(model_dir: Path) -> str:
    """A SHA-256 over a model's files of weights and graphs, and its golden outputs.

    Names, sizes and samples of each: 64 pieces of 64 kB, evenly spread: whoever trains on changes them all, and a worker's start does
    not wait for gigabytes to be read.
    """
    digest = hashlib.sha256()
    for file in sorted(model_dir.rglob("*")):
        told = file.suffix in _WEIGHTS or file.name == GOLDEN_PATH.name
        if not told or not file.is_file():
            continue
        size = file.stat().st_size
        digest.update(f"{file.relative_to(model_dir)}\0{size}\0".encode())
        step = max(size // _SAMPLES, _SAMPLE_BYTES)
        with file.open("rb") as stream:
            for offset in range(0, size, step):
                stream.seek(offset)
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()
