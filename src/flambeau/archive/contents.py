"""Which files go into an archive, and under which names.

Everything that the request names lies flat at the archive's root; of a folder, what is in it does
(contract.md sections 1.2, 1.3 and 1.5).
"""

import ast
import filecmp
import glob
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from flambeau.archive.entries import EntryTable, Limits
from flambeau.archive.manifest import MANIFEST_PATH, Runtime
from flambeau.archive.names import entry_parts, is_plain_name, shown
from flambeau.errors import ArchiveError, MissingFileError

TRANSFORMERS_HANDLER = "transformers_handler"
PYTHON_HANDLERS = frozenset(
    {
        "base_handler",
        "dali_image_classifier",
        "image_classifier",
        "image_segmenter",
        "object_detector",
        "text_classifier",
        "trt_llm_handler",
        "vllm_handler",
        TRANSFORMERS_HANDLER,
    }
)
LSP_HANDLERS = frozenset({"BaseHandler", "TorchScriptHandler"})

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
"""What a tokenizer is saved as, besides sentencepiece models (`*.model`)."""
_COMPANIONS = (
    "config.json",
    "generation_config.json",
    *TOKENIZER_FILES,
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "source.spm",
    "target.spm",
)
_INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")
_SKIPPED_FOLDERS = frozenset({"__pycache__", "__MACOSX"})
_MODULE_ROOTS = ("transformers", "flambeau.handlers.native")


class HandlerSource(msgspec.Struct, frozen=True):
    """A handler as it was named: what the manifest says, and the file to pack, if any."""

    manifest_value: str
    path: Path | None


class _ShardIndex(msgspec.Struct, frozen=True):
    """Which weight file holds which tensor, as `save_pretrained` writes it."""

    weight_map: dict[str, str]


class Contents:
    """The files of an archive that is being packed: entry name → file to copy."""

    def __init__(self, output: Path) -> None:
        """Start empty. `output` is the archive itself, which is never packed into itself."""
        self._output = output
        self.files: dict[str, Path] = {}

    def add(self, source: Path, folder: str = "") -> None:
        """Add one file under its own name, below `folder` of the archive.

        The same content twice is taken once. Raises `ArchiveError` if two different files would
        have one name, or if the file is none.
        """
        if not source.is_file():
            raise ArchiveError(f"{source} is not a regular file")
        name = f"{folder}{source.name}"
        earlier = self.files.setdefault(name, source)
        if earlier is not source and not filecmp.cmp(earlier, source, shallow=False):
            raise ArchiveError(
                f"{earlier} and {source} would both be {name!r} in the archive: "
                "rename one of them or leave it out"
            )

    def add_folder(self, source: Path) -> None:
        """Add what is in a folder, without the folder's own name."""
        for path in _walk(source, (), self._output.resolve()):
            relative = path.relative_to(source)
            if relative != MANIFEST_PATH:  # an older one; the archive gets its own
                self.add(path, "".join(f"{part}/" for part in relative.parts[:-1]))

    def checked(self) -> dict[str, Path]:
        """Return the files in the order of their names, after the checks that unpacking makes."""
        table = EntryTable(Limits())
        table.add(MANIFEST_PATH.parts, is_folder=False)
        for name in self.files:
            table.add(entry_parts(name), is_folder=False)
        return dict(sorted(self.files.items()))


def handler_source(handler: str, runtime: Runtime) -> HandlerSource:
    """Resolve `--handler` (contract.md section 1.5), and `file.py:entry` besides.

    Raises `ArchiveError` if it is neither a built-in name nor a file.
    """
    lsp = runtime == "LSP"
    built_in = LSP_HANDLERS if lsp else PYTHON_HANDLERS
    if handler in built_in:
        return HandlerSource(handler, None)
    module, colon, entry = handler.partition(":")
    suffix = ".so" if lsp else ".py"
    path = Path(module if module.endswith(suffix) else f"{module}{suffix}")
    if not Path(module).name or (colon and not entry.isidentifier()):
        raise ArchiveError(
            f"--handler {handler!r} is not a handler: give 'file.py', 'file.py:function' or one of "
            f"{', '.join(sorted(built_in))}"
        )
    if not path.is_file():
        raise MissingFileError(
            f"the handler file {path} does not exist, and {handler!r} is not a built-in handler "
            f"({', '.join(sorted(built_in))})"
        )
    return HandlerSource(f"{Path(module).name}{colon}{entry}", path)


def is_transformers_handler(source: str) -> bool:
    """Say whether a handler works with Hugging Face Transformers.

    `source` is the built-in name `transformers_handler`, or the Python source of a handler, which
    counts if it imports `transformers` or from `flambeau.handlers.native`.
    """
    if source == TRANSFORMERS_HANDLER:
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the user's code, which is not run here
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    modules = {name for node in ast.walk(tree) for name in _imported(node)}
    return any(
        module == root or module.startswith(f"{root}.")
        for module in modules
        for root in _MODULE_ROOTS
    )


def extra_files(listed: str, notify: Callable[[str], None]) -> Iterator[Path]:
    """Yield the files and folders of a comma-separated list, wildcards filled in.

    An item counts as a wildcard if it has `*`, `?` or `[…]` and no such file exists. Raises
    `ArchiveError` for a missing file; a wildcard without a match is told to `notify`.
    """
    for item in filter(None, (item.strip() for item in listed.split(","))):
        if os.path.lexists(item):
            yield _existing(Path(item))
            continue
        if not any(mark in item for mark in "*?") and not ("[" in item and "]" in item):
            raise MissingFileError(f"File does not exist: {item} (named in --extra-files)")
        # sorted: what is packed must not depend on the file system's order
        matches = [Path(match) for match in sorted(glob.glob(item))]
        if not matches:
            notify(f"warning: the wildcard {item} in --extra-files matches no file")
        yield from (path for path in matches if not (path.is_dir() and is_skipped(path.name)))


def companions(serialized_file: Path, taken: Iterable[str]) -> list[Path]:
    """Return the tokenizer and configuration files beside a model's weights.

    Files whose names are `taken` are left out: what the user named comes first.
    """
    found = (serialized_file.parent / name for name in _COMPANIONS)
    return [path for path in found if path.name not in taken and path.is_file()]


def shards(serialized_file: Path, taken: Iterable[str]) -> list[Path]:
    """Return the weight files that a shard index names; none if the file is no index.

    Raises `ArchiveError` if the index is broken or a shard is missing.
    """
    if not serialized_file.name.endswith(_INDEX_SUFFIXES):
        return []
    try:
        index = msgspec.json.decode(serialized_file.read_bytes(), type=_ShardIndex)
    except msgspec.DecodeError as error:
        raise ArchiveError(f"{serialized_file} is not a shard index: {error}") from error
    paths = []
    for name in sorted(set(index.weight_map.values())):
        if not is_plain_name(name):
            raise ArchiveError(f"{serialized_file} names {shown(name)}, which is not a file name")
        path = serialized_file.parent / name
        if name in taken:
            continue
        if not path.is_file():
            raise MissingFileError(f"{serialized_file} names {name}, which is not beside it")
        paths.append(path)
    return paths


def _existing(path: Path) -> Path:
    if not path.exists():
        raise MissingFileError(f"{path} in --extra-files is a link to nothing")
    return path


def _imported(node: ast.AST) -> list[str]:
    """Return the modules that a statement imports, and `module.name` of `from` imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def is_skipped(folder: str) -> bool:
    """Say whether a sub-folder of this name stays out of an archive."""
    return folder.startswith(".") or folder in _SKIPPED_FOLDERS


def _walk(folder: Path, above: tuple[Path, ...], output: Path) -> Iterator[Path]:
    """Yield the files below a folder, but `output` and what is in it.

    Links are followed, as in TorchServe, but not in circles.
    """
    real = folder.resolve()
    if real in above:
        raise ArchiveError(f"{folder} is a link to a folder that it lies in")
    for path in sorted(folder.iterdir()):
        if path.resolve() == output:
            continue
        if not path.is_dir():
            yield path
        elif not is_skipped(path.name):
            yield from _walk(path, (*above, real), output)
