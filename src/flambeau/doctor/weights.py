"""Weights and tokenizer files: what they are, told without loading them."""

import json
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from flambeau.archive.zip_reader import as_archive_error
from flambeau.doctor.findings import Finding
from flambeau.errors import ArchiveError, first_line

Instructions = Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]

_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".model"})
_PICKLE_START = b"\x80"
_MAX_PICKLE_BYTES = 64 * 1024 * 1024
_MAX_HEADER_BYTES = 100 * 1024 * 1024
_SHOWN = 4
_PUT = frozenset({"BINPUT", "LONG_BINPUT", "PUT"})
_GET = frozenset({"BINGET", "LONG_BINGET", "GET"})

_HARMLESS = re.compile(
    r"torch\._utils _rebuild_\w+|torch\.storage \w+Storage|torch (\w+Storage|Size|device|dtype|Tensor)"
    r"|torch (float|bfloat|int|uint|complex|bool|half|double|long|short|quint|qint)\w*"
    r"|torch\._tensor _rebuild_from_type_v2|torch\.nn\.parameter \w*Parameter\w*"
    r"|collections (OrderedDict|defaultdict|Counter)|_codecs encode"
    r"|(builtins|__builtin__) (set|frozenset|bytearray|complex|slice|int|float|bool|str|list|dict|tuple)"
)
"""What a state dict is made of: what `torch.load(weights_only=True)` admits."""

_DANGEROUS = frozenset(
    [
        "os",
        "posix",
        "nt",
        "subprocess",
        "sys",
        "runpy",
        "socket",
        "shutil",
        "importlib",
        "ctypes",
        "pty",
        "code",
        "webbrowser",
        "pickle",
        "_pickle",
        "builtins",
        "__builtin__",
        "commands",
        "multiprocessing",
        "asyncio",
        "requests",
        "urllib",
        "http",
        "pip",
        "timeit",
        "pdb",
        "bdb",
        "operator",
        "functools",
    ]
)
"""Modules whose functions a pickle can call to run anything."""


def check_weights(model_dir: Path) -> list[Finding]:
    """Findings on every file of weights in an archive."""
    findings: list[Finding] = []
    for path in sorted(model_dir.rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(model_dir).as_posix()
        if path.suffix == ".safetensors":
            findings += _safetensors(path, name)
        elif path.suffix in _SUFFIXES and not path.with_suffix(".xml").is_file():  # OpenVINO's
            findings += _pickle(path, name)
    return findings


def kind_of(path: Path) -> Literal["torchscript", "torch-zip", "pickle", "other"]:
    """What a file of weights is, told from its structure."""
    if zipfile.is_zipfile(path):
        try:
            with as_archive_error(), zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except ArchiveError:
            return "other"
        if any("/code/" in name for name in names):
            return "torchscript"
        return "torch-zip" if any(name.endswith("data.pkl") for name in names) else "other"
    with path.open("rb") as file:
        return "pickle" if file.read(1) == _PICKLE_START or _is_old_pickle(file) else "other"


def _is_old_pickle(file: BinaryIO) -> bool:
    """Whether a file without a protocol's number reads as a pickle to its end."""
    file.seek(0)
    try:
        return any(opcode.name in ("GLOBAL", "INST") for opcode, _, _ in _instructions(file))
    except ValueError:
        return False


def _instructions(pickled: bytes | BinaryIO) -> Instructions:
    """A pickle's instructions. Raises `ValueError` where they are none."""
    try:
        yield from pickletools.genops(pickled)
    except (OverflowError, MemoryError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _safetensors(path: Path, name: str) -> list[Finding]:
    """Read the header alone: its length, its JSON, and whether the file has all of its bytes."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _MAX_HEADER_BYTES)))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        expected = -1
    if size == expected:
        return []
    what = "The file is no whole safetensors file"
    what += "." if expected < 0 else f": it has {size} of {expected} bytes."
    return [Finding("error", "broken-weights", name, what, "Pack the archive again.")]


def _pickle(path: Path, name: str) -> list[Finding]:
    kind = kind_of(path)
    if kind not in ("torch-zip", "pickle"):
        return []
    try:
        with as_archive_error():
            found = sorted(set(_globals_of(path, kind)))
    except ArchiveError as error:
        what = f"The pickle cannot be read: {first_line(error.__cause__ or error)}."
        return [Finding("warning", "pickle-unreadable", name, what, "Save it as safetensors.")]
    foreign = [text for text in found if _HARMLESS.fullmatch(text) is None]
    dangerous = [text for text in foreign if text.split()[0].partition(".")[0] in _DANGEROUS]
    save = "Save the weights as safetensors (model.save_pretrained does)."
    if dangerous:
        return [
            Finding(
                "error",
                "pickle-danger",
                name,
                f"Loading this pickle can run any code: it names {_listing(dangerous)}.",
                f"Do not load it unless you made it. {save}",
            )
        ]
    if foreign:
        return [
            Finding(
                "warning",
                "pickle-objects",
                name,
                f"A pickle of whole objects ({_listing(foreign)}): torch.load refuses it unless the"
                " handler says weights_only=False, and the classes must be importable.",
                "Save the state dict alone, best as safetensors.",
            )
        ]
    what = "Weights in a pickle; it names nothing but tensors, and loads with weights_only=True."
    return [Finding("note", "pickle", name, what, save)]


def _listing(names: list[str]) -> str:
    shown = ", ".join(name.replace(" ", ".") for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _globals_of(path: Path, kind: str) -> Iterator[str]:
    """`module name` of everything that a pickle would import. Raises `ValueError` if it is broken."""
    if kind == "pickle":
        with path.open("rb") as file:
            yield from _legacy(file)
        return
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".pkl"):
                if entry.file_size > _MAX_PICKLE_BYTES:
                    raise ValueError(f"it has more than {_MAX_PICKLE_BYTES} bytes")
                with archive.open(entry) as file:
                    yield from _names(file.read(_MAX_PICKLE_BYTES))


def _legacy(file: BinaryIO) -> Iterator[str]:
    """A file of pickles one after the other, tensors' bytes behind them (torch before 1.6)."""
    yield from _names(file)
    while file.read(1) == _PICKLE_START:
        file.seek(-1, 1)
        yield from _names(file)


def _names(pickled: bytes | BinaryIO) -> Iterator[str]:
    """Follow a pickle's instructions, without obeying them, and yield what it would import."""
    texts: list[str] = []
    memo: dict[int, str | None] = {}
    last: str | None = None
    for opcode, argument, _ in _instructions(pickled):
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            yield str(argument)
            last = None
        elif name == "STACK_GLOBAL":
            yield " ".join(texts[-2:]) if len(texts) > 1 else "? ?"
            last = None
        elif isinstance(argument, str):
            last = argument
            texts.append(argument)
        elif name == "MEMOIZE":
            memo[len(memo)] = last
        elif name in _PUT:
            memo[int(argument or 0)] = last
        else:
            last = memo.get(int(argument or 0)) if name in _GET else None
            texts += [last] if last is not None else []
