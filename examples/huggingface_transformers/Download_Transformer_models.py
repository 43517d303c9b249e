"""Saves a Transformers model in ./Transformer_model, ready for torch-model-archiver.

    python Download_Transformer_models.py                    what model-config.yaml says
    python Download_Transformer_models.py setup_config.json  what that file says

Without an argument: the `handler` section of the model-config.yaml beside this script, or the
setup_config.json there if there is no such section. `flambeau prepare` does the same with options
instead of files.
"""

import sys
from pathlib import Path

from flambeau.errors import ConfigError, FlambeauError
from flambeau.handlers.prepare import run
from flambeau.handlers.prepare_request import make_request, read_handler_section

HERE = Path(__file__).resolve().parent
DEFAULT_FILES = ("model-config.yaml", "setup_config.json")


def find_config(arguments: list[str]) -> Path:
    """The configuration file that is named, or the first default one that names a model."""
    if arguments:
        named = Path(arguments[0])
        return named if named.is_file() else HERE / named
    for name in DEFAULT_FILES:
        if (HERE / name).is_file() and read_handler_section(HERE / name):
            return HERE / name
    raise ConfigError(f"There is neither {' nor '.join(DEFAULT_FILES)} in {HERE}.")


def other_file(config: Path, arguments: list[str]) -> str:
    """A hint where a second configuration file is there that was not asked for."""
    other = HERE / DEFAULT_FILES[1]
    if arguments or config == other or not other.is_file():
        return ""
    return f" (not {other.name}: name it to use it)"


def main(arguments: list[str]) -> int:
    """Run the script; returns the exit code."""
    try:
        config = find_config(arguments)
        print(f"Reading {config.name}{other_file(config, arguments)}")
        request = make_request(read_handler_section(config))
    except FlambeauError as error:
        print(f"flambeau: {error}", file=sys.stderr)
        return 1
    return run(request)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
