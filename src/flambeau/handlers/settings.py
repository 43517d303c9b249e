"""What an archive says about its model: `model-config.yaml`'s `handler:` or `setup_config.json`.

Both are TorchServe's: its Transformers example read `setup_config.json` first and the `handler:`
section of `model-config.yaml` later. Values may be strings ("true", "150"), as that example wrote
them. Pure: imported by the commands too.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, cast, get_args

import msgspec

from flambeau.archive.sentence_files import is_sentence_model
from flambeau.errors import ConfigError
from flambeau.tasks.base import LIBRARY_MODES, PoolingMode, infer_task
from flambeau.types import OutputShape, Precision, TaskName

SaveMode = Literal["pretrained", "torchscript"]
HandlerMode = Literal["auto", "native", "as-is"]
EngineChoice = Literal["auto", "torch", "torchscript", "onnx", "openvino"]
"""What commands offer; in an archive an engine is any file of the folder `engines`."""
PrecisionChoice = Literal["auto", Precision]

_MODES: Mapping[str, TaskName] = {
    "sequence_classification": "text-classification",
    "token_classification": "token-classification",
    "question_answering": "question-answering",
    "text_generation": "text-generation",
}
_TASKS: Mapping[str, TaskName] = {
    **{task: task for task in get_args(TaskName)},
    "sentiment-analysis": "text-classification",
    "ner": "token-classification",
}


class GoldenSettings(msgspec.Struct, frozen=True):
    """Whether an archive's golden outputs are checked at load, and how near answers must be.

    `tolerance` None: as the precision allows.
    """

    check: bool = True
    tolerance: float | None = None


class HandlerSettings(msgspec.Struct, frozen=True):
    """How the native Transformers handler is to serve a model.

    None means "not said". `precision` auto lets a measured verdict choose. `task` is inferred from `config.json` where neither `task` nor `mode` is
    given and may still be None. `without_effect` names the given keys that change nothing here.
    """

    task: TaskName | None = None
    model_name: str | None = None
    revision: str | None = None
    engine: str = "auto"
    precision: PrecisionChoice | None = None
    save_mode: SaveMode | None = None
    output: OutputShape | None = None
    handler_mode: HandlerMode = "auto"
    max_length: int | None = None
    num_labels: int | None = None
    batch_size: int | None = None
    do_lower_case: bool | None = None
    captum_explanation: bool = False
    embedding_name: str | None = None
    golden: GoldenSettings = GoldenSettings()
    pooling: PoolingMode | None = None
    without_effect: tuple[str, ...] = ()


def read_settings(model_dir: Path, yaml_config: Mapping[str, object]) -> HandlerSettings:
    """The settings of an unpacked archive; `yaml_config` is its parsed `model-config.yaml`.

    Where both files set a key, the YAML wins. Raises `ConfigError` that names the key, its value
    and the allowed values.
    """
    config = read_json_object(model_dir / "config.json")
    makes_vectors = is_sentence_model(model_dir)
    return parse_settings(_merged(model_dir, yaml_config), config, makes_vectors=makes_vectors)


def parse_settings(
    given: Mapping[str, object], config: Mapping[str, object], *, makes_vectors: bool = False
) -> HandlerSettings:
    """Settings from keys and values and the model's `config.json`. Raises `ConfigError`.

    `makes_vectors`: sentence-transformers saved the model to make vectors of texts.
    """
    values: dict[str, object] = {}
    without_effect = []
    for key, value in given.items():
        if key in _READERS:
            if value is not None:
                values[key] = _READERS[key](key, value)
        elif key not in _SWITCHES or _read_switch(value):
            without_effect.append(key)
    mode = cast("TaskName | None", values.pop("mode", None))
    values["task"] = values.get("task") or mode or infer_task(config, makes_vectors=makes_vectors)
    values["without_effect"] = tuple(without_effect)
    return msgspec.convert(values, HandlerSettings)


def read_json_object(path: Path) -> dict[str, object]:
    """The JSON object in a file, or {} where there is no such file. Raises `ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}.") from None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name} is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path.name} must hold a JSON object, not {type(value).__name__}.")
    return value


def _merged(model_dir: Path, yaml_config: Mapping[str, object]) -> dict[str, object]:
    section = yaml_config.get("handler")
    if section is None:
        section = {}
    if not isinstance(section, Mapping):
        raise ConfigError(
            f"'handler' in model-config.yaml must be a section of keys and values, not {section!r}."
        )
    setup = read_json_object(model_dir / "setup_config.json")
    return setup | {str(key): value for key, value in section.items()}


def _wrong(key: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"The handler setting {key!r} is {value!r}. Allowed: {allowed}.")


def _read_text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _wrong(key, value, "a text that is not empty")
    return value.strip()


def _read_name(key: str, value: object) -> str | None:
    """A text where an empty one means "not said"; setup_config.json has such entries."""
    return None if value == "" else _read_text(key, value)


def _read_revision(key: str, value: object) -> str:
    """A branch, tag or commit. YAML reads one made of digits as a number."""
    return _read_text(key, str(value) if isinstance(value, int | float) else value)


def _read_count(key: str, value: object) -> int:
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) and text.isascii() and text.isdigit():
        text = int(text)
    if isinstance(text, bool) or not isinstance(text, int) or text < 1:
        raise _wrong(key, value, "a whole number from 1 on")
    return text


def _read_label_count(key: str, value: object) -> int | None:
    """A count where 0 means "not said": the example has it for question answering."""
    return None if str(value).strip() == "0" else _read_count(key, value)


def _read_flag(key: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "1": True, "false": False, "0": False}
    flag = known.get(str(value).strip().lower())
    if flag is None:
        raise _wrong(key, value, "true, false")
    return flag


def _read_golden(key: str, value: object) -> dict[str, object]:
    """On or off, or a section with a tolerance."""
    switch = {"true": True, "on": True, "false": False, "off": False}.get(str(value).lower())
    if switch is not None:
        return {"check": switch}
    given = value.get("tolerance") if isinstance(value, Mapping) and len(value) == 1 else None
    try:
        tolerance = float(str(given))  # YAML takes 1e-3 for a text
    except ValueError:
        tolerance = math.nan
    if not 0 < tolerance < math.inf:
        raise _wrong(key, value, "on, off, or a section with a tolerance: a number above 0")
    return {"tolerance": tolerance}


def _read_switch(value: object) -> bool:
    """Whether a key that has no effect here is switched on, in whatever spelling."""
    return value is not None and str(value).strip().lower() not in {"false", "0", "", "none"}


def _one_of(choices: Mapping[str, str]) -> Callable[[str, object], str]:
    def read(key: str, value: object) -> str:
        text = str(value).strip().lower().replace("_", "-")
        chosen = {name.replace("_", "-"): choice for name, choice in choices.items()}.get(text)
        if chosen is None:
            raise _wrong(key, value, ", ".join(choices))
        return chosen

    return read


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_READERS: Mapping[str, Callable[[str, object], object]] = {
    "task": _one_of(_TASKS),
    "mode": _one_of(_MODES),
    "model_name": _read_name,
    "revision": _read_revision,
    "engine": _read_text,
    "precision": _one_of(_same("auto", "fp32", "bf16", "fp16", "int8")),
    "save_mode": _one_of(_same("pretrained", "torchscript")),
    "output": _one_of(_same("legacy", "full")),
    "handler_mode": _one_of(_same("auto", "native", "as-is")),
    "max_length": _read_count,
    "num_labels": _read_label_count,
    "batch_size": _read_count,
    "do_lower_case": _read_flag,
    "captum_explanation": _read_flag,
    "embedding_name": _read_name,
    "golden": _read_golden,
    "pooling": _one_of(_same(*LIBRARY_MODES.values()) | dict(LIBRARY_MODES)),
}
_SWITCHES = frozenset({"BetterTransformer", "FasterTransformer", "model_parallel", "hardware"})
"""Keys of the example that change nothing here; said so only where they are switched on."""
