"""What the archive's settings mean."""

import json
from pathlib import Path
from typing import Any

import pytest

from flambeau.errors import ConfigError
from flambeau.handlers.settings import HandlerSettings, read_settings

# TorchServe's example, as published.
SETUP = {
    "model_name": "bert-base-uncased",
    "mode": "sequence_classification",
    "do_lower_case": True,
    "num_labels": "2",
    "save_mode": "pretrained",
    "max_length": "150",
    "captum_explanation": True,
    "embedding_name": "bert",
    "FasterTransformer": False,
    "BetterTransformer": False,
    "model_parallel": False,
}


def read(folder: Path, handler: Any = None, **files: Any) -> HandlerSettings:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return read_settings(folder, {} if handler is None else {"handler": handler})


def test_setup_config_is_read(tmp_path: Path) -> None:
    """The example's file is understood, numbers in strings included."""
    settings = read(tmp_path, setup_config=SETUP)
    assert settings == HandlerSettings(
        task="text-classification",
        model_name="bert-base-uncased",
        do_lower_case=True,
        num_labels=2,
        save_mode="pretrained",
        max_length=150,
        captum_explanation=True,
        embedding_name="bert",
    )


def test_yaml_wins_key_by_key(tmp_path: Path) -> None:
    """model-config.yaml overrides single keys of setup_config.json."""
    handler = {"max_length": 32, "output": "full", "revision": 7, "precision": "int8"}
    settings = read(tmp_path, handler, setup_config=SETUP)
    assert settings.max_length == 32
    assert settings.output == "full"
    assert settings.revision == "7"
    assert settings.precision == "int8"
    assert settings.task == "text-classification"


def test_no_settings_at_all(tmp_path: Path) -> None:
    """Nothing said is nothing set."""
    assert read(tmp_path) == HandlerSettings()


def test_task_is_inferred(tmp_path: Path) -> None:
    """Without mode and task the configuration's architecture decides."""
    config = {"architectures": ["BertForTokenClassification"]}
    assert read(tmp_path, config=config).task == "token-classification"
    assert read(tmp_path, {"task": "text-generation"}, config=config).task == "text-generation"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("task", "text-classification", "text-classification"),
        ("task", "sentiment-analysis", "text-classification"),
        ("task", "NER", "token-classification"),
        ("mode", "question_answering", "question-answering"),
        ("mode", "text_generation", "text-generation"),
    ],
)
def test_names_of_tasks(tmp_path: Path, key: str, value: str, expected: str) -> None:
    """Pipeline tags, their aliases and TorchServe's modes name tasks."""
    assert read(tmp_path, {key: value}).task == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), ("true", True), ("False", False), ("TRUE", True), ("0", False), (1, True)],
)
def test_flags_in_every_spelling(tmp_path: Path, value: object, expected: bool) -> None:
    """Booleans may be words or numbers."""
    assert read(tmp_path, {"do_lower_case": value}).do_lower_case is expected


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("mode", "translation", "sequence_classification"),
        ("task", "juggling", "token-classification"),
        ("max_length", "long", "whole number"),
        ("max_length", 0, "whole number"),
        ("max_length", True, "whole number"),
        ("max_length", 1.5, "whole number"),
        ("save_mode", "onnx", "pretrained, torchscript"),
        ("precision", "int4", "auto, fp32, bf16, fp16, int8"),
        ("output", "json", "legacy, full"),
        ("handler_mode", "fast", "auto, native, as-is"),
        ("do_lower_case", "perhaps", "true, false"),
        ("model_name", 3, "a text"),
    ],
)
def test_wrong_values_name_key_value_and_choices(
    tmp_path: Path, key: str, value: object, allowed: str
) -> None:
    """A wrong value is an error that can be mended without a manual."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, {key: value})
    assert key in caught.value.message
    assert repr(value) in caught.value.message
    assert allowed in caught.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Broken files are named."""
    (tmp_path / "setup_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"setup_config\.json is not valid JSON"):
        read(tmp_path)
    (tmp_path / "setup_config.json").write_text("[]")
    with pytest.raises(ConfigError, match="must hold a JSON object, not list"):
        read(tmp_path)
    (tmp_path / "setup_config.json").unlink()
    with pytest.raises(ConfigError, match=r"'handler' in model-config\.yaml"):
        read(tmp_path, "native")


def test_keys_without_effect_are_collected(tmp_path: Path) -> None:
    """Switched-on old keys and unknown keys are reported, switched-off ones are not."""
    handler = {
        "BetterTransformer": "true",
        "model_parallel": False,
        "hardware": "neuron",
        "max_lenght": 3,
        "max_length": None,
    }
    settings = read(tmp_path, handler)
    assert settings.without_effect == ("BetterTransformer", "hardware", "max_lenght")
    assert settings.max_length is None
