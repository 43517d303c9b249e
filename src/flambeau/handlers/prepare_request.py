"""What `flambeau prepare` is asked to do, and the files that ask for it.

Pure, unlike `flambeau.handlers.prepare`: the commands import it.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from flambeau.archive.yaml_config import read_yaml
from flambeau.errors import ArchiveError, ConfigError
from flambeau.handlers.settings import SaveMode, parse_settings, read_json_object
from flambeau.types import TaskName

DEFAULT_OUTPUT = Path("Transformer_model")
"""The folder that TorchServe's Transformers example writes, in the working directory."""

_UNSUPPORTED_HARDWARE = frozenset({"neuron", "neuronx"})


class PrepareRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A model and the form it is to be saved in. None means "as the model has it".

    `model_name` is a hub id or a folder. `max_length`, in tokens, matters for `torchscript` only:
    the length that the model is traced with. `do_lower_case` matters only for a model without a
    `tokenizer.json`.
    """

    model_name: str
    task: TaskName | None = None
    save_mode: SaveMode = "pretrained"
    num_labels: int | None = None
    max_length: int | None = None
    do_lower_case: bool | None = None
    revision: str | None = None
    output: Path = DEFAULT_OUTPUT


def read_handler_section(file: Path) -> dict[str, object]:
    """The keys of a `setup_config.json`, or of the `handler:` section of a `model-config.yaml`.

    Which of the two a file is goes by its suffix. {} where the YAML file has no such section.
    Raises `ConfigError` for a file that is missing or says something else.
    """
    if not file.is_file():
        raise ConfigError(f"There is no configuration file {file}.")
    if file.suffix == ".json":
        return read_json_object(file)
    if file.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"{file} is no configuration: give a .json file like setup_config.json"
            " or a .yaml file like model-config.yaml."
        )
    try:
        section = read_yaml(file).get("handler")
    except ArchiveError as error:
        raise ConfigError(f"The configuration {error.message}") from error
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise ConfigError(f"'handler' in {file} must be a section of keys and values.")
    return {str(key): entry for key, entry in section.items()}


def make_request(given: Mapping[str, object], output: Path = DEFAULT_OUTPUT) -> PrepareRequest:
    """The request that a configuration's keys and values make.

    Keys that matter for serving alone are checked and otherwise left out. Raises `ConfigError`
    that names the key.
    """
    hardware = str(given.get("hardware") or "").strip().lower()
    if hardware in _UNSUPPORTED_HARDWARE:
        raise ConfigError(
            f"hardware is {hardware!r}: AWS {hardware} is not supported. Remove the key to save"
            " the model for CPU and GPU."
        )
    settings = parse_settings(given, {})
    if settings.model_name is None:
        raise ConfigError("model_name is missing: set it to a hub id or to a folder with a model.")
    return PrepareRequest(
        model_name=settings.model_name,
        task=settings.task,
        save_mode=settings.save_mode or "pretrained",
        num_labels=settings.num_labels,
        max_length=settings.max_length,
        do_lower_case=settings.do_lower_case,
        revision=settings.revision,
        output=output,
    )
