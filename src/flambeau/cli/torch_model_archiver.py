"""`torch-model-archiver`, the drop-in: packs a model into an archive (contract.md section 1.1)."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from flambeau.archive.contents import PYTHON_HANDLERS
from flambeau.archive.manifest import Runtime
from flambeau.archive.pack import ArchiveFormat, PackRequest, pack
from flambeau.errors import FlambeauError

_PROGRAM = "torch-model-archiver"
_DESCRIPTION = "Pack a model, its handler and its files into an archive for the model server."
_EPILOG = """\
examples:
  torch-model-archiver --model-name bert --version 1.0 \\
      --serialized-file bert/model.safetensors --handler transformers_handler
  torch-model-archiver --model-name bert --version 1.0 --handler my_handler.py:handle \\
      --extra-files 'labels.json, data/*.txt' --export-path model_store
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one line on stderr. Wrong usage exits with status 2."""
    options = parser().parse_args(argv)
    return run_archiver(_PROGRAM, lambda say: pack(PackRequest(**vars(options)), say))


def run_archiver(program: str, write: Callable[[Callable[[str], None]], Path]) -> int:
    """Run an archiver's work: each message is one line on stderr, nothing goes to stdout.

    `write` is given what tells the user a line, and returns what it wrote. Returns the exit code:
    0, 1 after an error, 130 after Ctrl-C.
    """

    def say(message: str) -> None:
        print(f"{program}: {' '.join(message.split())}", file=sys.stderr)

    try:
        output = write(say)
    except FlambeauError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; nothing was written")
        return 130
    say(f"wrote {output} ({_size(output)})")
    return 0


def _file(text: str) -> Path | None:
    """A path; the empty text is none, as scripts with an unset variable have it."""
    return Path(text) if text else None


def _size(output: Path) -> str:
    paths = output.rglob("*") if output.is_dir() else [output]
    count: float = sum(path.stat().st_size for path in paths if path.is_file())
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def parser() -> argparse.ArgumentParser:
    """The command's flags; the parsed names are the fields of `PackRequest`."""
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model-name",
        required=True,
        metavar="NAME",
        help="the model's name, and the output's without its suffix",
    )
    parser.add_argument(
        "-v", "--version", required=True, metavar="VERSION", help="the MODEL's version, like 1.0"
    )
    parser.add_argument(
        "--handler",
        required=True,
        metavar="HANDLER",
        help="a Python file, file.py:function, or a built-in handler: "
        + ", ".join(sorted(PYTHON_HANDLERS)),
    )
    parser.add_argument(
        "--serialized-file",
        type=_file,
        metavar="FILE",
        help="the weights (.safetensors, .bin, .pt, .onnx, …). With a Transformers handler, "
        "tokenizer and configuration files beside it are packed too, and so are the shards of a "
        "*.safetensors.index.json",
    )
    parser.add_argument(
        "--model-file",
        type=_file,
        metavar="FILE",
        help="a Python file with the model's one class, for eager-mode weights",
    )
    parser.add_argument(
        "--extra-files",
        default="",
        metavar="LIST",
        help="files, wildcards and folders, separated by commas. Of a folder, what is in it is "
        "packed, but no sub-folders named .*, __pycache__ or __MACOSX",
    )
    parser.add_argument(
        "-r",
        "--requirements-file",
        type=_file,
        metavar="FILE",
        help="Python packages that this model needs, for pip",
    )
    parser.add_argument(
        "-c",
        "--config-file",
        type=_file,
        metavar="FILE",
        help="the model's YAML configuration (batch size, workers, …)",
    )
    parser.add_argument(
        "--runtime",
        choices=get_args(Runtime),
        default="python",
        help="what runs the handler (default: %(default)s); LSP is TorchServe's C++ backend",
    )
    parser.add_argument(
        "--export-path",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="folder to write to, which must exist (default: the current folder)",
    )
    parser.add_argument(
        "--archive-format",
        choices=get_args(ArchiveFormat),
        default="default",
        help="default: NAME.mar, compressed; zip-store: NAME.mar, not compressed, which is faster "
        "for large weights; tgz: NAME.tar.gz; no-archive: a folder NAME",
    )
    parser.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="overwrite an existing output. In an existing folder, other files stay",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
