"""The names of a model's classes, from `index_to_name.json` or `config.json`."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from flambeau.errors import ConfigError

logger = logging.getLogger(__name__)

FILE_NAME = "index_to_name.json"
MAX_LABELS = 100_000


def read_labels(model_dir: Path, config: Mapping[str, object]) -> list[str] | None:
    """The labels in the order of the model's outputs, or None where nothing names them.

    `index_to_name.json` wins over the configuration's `id2label`. It may hold any form that
    TorchServe's handlers read (contract.md, `load_label_mapping` and the Transformers example):
    `{"0": "a"}`, the same with lists whose last element counts, `{"label_list": "[a, b]"}` or a
    real list there, `{"object_type_names": [...]}`, a plain list, and `{"a": 0}`. Raises
    `ConfigError` where the file holds none of these.
    """
    path = model_dir / FILE_NAME
    if path.is_file():
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{FILE_NAME} cannot be read as JSON: {error}.") from None
        return _parse_labels(value)
    id_to_label = config.get("id2label")
    return _from_mapping(id_to_label) if isinstance(id_to_label, dict) and id_to_label else None


def warn_missing_labels(labels: list[str] | None, outputs: int) -> None:
    """Say once that a model has more outputs than names. Those are called `LABEL_n`."""
    known = len(labels or [])
    if known < outputs:
        logger.warning(
            "The model has %d labels but %d of them are named; the others are called LABEL_%d"
            " and so on. Name them in %s.",
            outputs,
            known,
            known,
            FILE_NAME,
        )


def _parse_labels(value: object) -> list[str]:
    if isinstance(value, dict):
        for key in ("label_list", "object_type_names"):
            if key in value:
                return _parse_labels(value[key])
        return _from_mapping(value)
    if isinstance(value, str):
        names = value.strip().removeprefix("[").removesuffix("]").split(",")
        return [name.strip().strip("\"'") for name in names]
    if isinstance(value, list) and value and len(value) <= MAX_LABELS:
        return [_label(entry) for entry in value]
    raise _unknown_form()


def _from_mapping(mapping: Mapping[object, object]) -> list[str]:
    """Labels from index → name, or from name → index."""
    pairs = [(_index(key), value) for key, value in mapping.items()]
    if all(index is None for index, _ in pairs):
        pairs = [(_index(value), key) for key, value in mapping.items()]
    by_index = {index: _label(name) for index, name in pairs if index is not None}
    if not by_index or len(by_index) < len(pairs):
        raise _unknown_form()
    return [by_index.get(index, f"LABEL_{index}") for index in range(max(by_index) + 1)]


def _index(value: object) -> int | None:
    text = str(value)
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) < MAX_LABELS:
        return int(text)
    return None


def _label(value: object) -> str:
    """A label's text. Of a list, such as ImageNet's [id, name], the last element counts."""
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, dict | list) or value is None:
        raise _unknown_form()
    return str(value)


def _unknown_form() -> ConfigError:
    return ConfigError(
        f'{FILE_NAME} does not name labels. Write {{"0": "first label", "1": "second label"}}.'
    )
