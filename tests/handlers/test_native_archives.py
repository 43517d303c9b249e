"""What the native handler makes of archives, whole and broken."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from typing_extensions import override

from flambeau.errors import ConfigError, LoadError, PredictionError
from flambeau.testing.native import ServedNative
from flambeau.types import TaskName
from tests.handlers.native_models import (
    LABELS,
    TEXTS,
    Models,
    classification_scores,
    models,
    one_thread,
)

__all__ = ["models", "one_thread"]  # fixtures


def copied(models: Models, target: Path, task: TaskName = "text-classification") -> Path:
    target.mkdir(exist_ok=True)
    for file in models.get(task).iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_broken_weights_are_an_error_and_not_an_answer(models: Models, tmp_path: Path) -> None:
    """NaN in the scores is told to the client, not sent as invalid JSON."""
    from safetensors.torch import load_file, save_file

    folder = copied(models, tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (answer,) = ServedNative(folder)("a")
    assert isinstance(answer, PredictionError)
    assert "NaN" in answer.message


def test_a_model_without_the_tasks_head_is_refused(models: Models, tmp_path: Path) -> None:
    """Random answers of a head that was never trained are not served."""
    folder = copied(models, tmp_path, "question-answering")
    with pytest.raises(LoadError, match=r"no weights for classifier.*text-classification"):
        ServedNative(folder, mode="sequence_classification")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin", "pytorch_model.bin"])
def test_other_weight_files(
    models: Models, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights with a name of their own come by the manifest; pickles load safely and say so."""
    from safetensors.torch import load_file

    folder = copied(models, tmp_path)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if name.endswith(".bin"):
        torch.save(weights, folder / name)
    else:
        from safetensors.torch import save_file

        save_file(weights, folder / name)
    (answer,) = ServedNative(folder, file=name)("a movie")
    (expected,) = ServedNative(models.get("text-classification"))("a movie")
    # Tensors lie differently in memory, which moves the last digits.
    assert classification_scores(answer) == pytest.approx(classification_scores(expected), abs=1e-6)
    assert ("pickle" in caplog.text) == name.endswith(".bin")


def test_missing_weights_say_what_to_do(models: Models, tmp_path: Path) -> None:
    """An archive without weights is a load error with the way out."""
    folder = copied(models, tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(LoadError, match="--serialized-file"):
        ServedNative(folder)


def test_traced_model_without_configuration(models: Models, tmp_path: Path) -> None:
    """Old TorchScript archives have no config.json: labels come from index_to_name.json."""
    source = models.traced("text-classification")
    for name in ("tokenizer.json", "traced_model.pt"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    (tmp_path / "setup_config.json").write_text(
        json.dumps(
            {
                "model_name": "bert-base-uncased",
                "mode": "sequence_classification",
                "do_lower_case": "False",
                "num_labels": "2",
                "save_mode": "torchscript",
                "max_length": "64",
                "captum_explanation": "true",
                "embedding_name": "bert",
                "BetterTransformer": "false",
            }
        )
    )
    names = {str(index): f"name {index}" for index in range(5)}
    (tmp_path / "index_to_name.json").write_text(json.dumps(names))
    served = ServedNative(tmp_path, "legacy", file="traced_model.pt")
    label = ServedNative(models.get("text-classification"), "legacy")("a movie")[0]
    assert served("a movie") == [f"name {LABELS.index(label)}"]


def test_a_model_of_one_shape_is_found_out(
    models: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A traced model that takes only its own shape gets rows of that shape, and right answers."""

    class OneShape(torch.nn.Module):
        @override
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            total = (input_ids * attention_mask).view(1, 16).sum(1)
            return torch.stack([total % 7, total % 3], 1).float()

    example = torch.ones((1, 16), dtype=torch.long)
    trace: Any = torch.jit.trace  # not annotated in torch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated and says so
        trace(OneShape(), (example, example), strict=False).save(str(tmp_path / "m.pt"))
    source = models.get("text-classification")
    (tmp_path / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    served = ServedNative(
        tmp_path,
        file="m.pt",
        mode="sequence_classification",
        save_mode="torchscript",
        max_length=16,
    )
    assert "padded to 16" in caplog.text
    assert served(*TEXTS) == [served(text)[0] for text in TEXTS]


def test_a_file_that_is_no_model(models: Models, tmp_path: Path) -> None:
    """A broken TorchScript file is a load error in one line."""
    folder = copied(models, tmp_path)
    (folder / "m.pt").write_bytes(b"not a model")
    with pytest.raises(LoadError, match=r"m\.pt cannot be loaded as TorchScript"):
        ServedNative(folder, file="m.pt", save_mode="torchscript")


def test_a_traced_model_has_the_precision_that_it_has(models: Models) -> None:
    """A precision that cannot be had is an error and never ignored."""
    folder = models.traced("text-classification")
    with pytest.raises(LoadError, match="precision is int8, but a TorchScript model"):
        ServedNative(folder, file="traced_model.pt", precision="int8")


def test_unknown_task_asks_for_one(models: Models, tmp_path: Path) -> None:
    """Where nothing says what the model is for, the setting to make is named."""
    folder = copied(models, tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match="Set task"):
        ServedNative(folder)


def test_settings_without_effect_are_named_once(
    models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    """Old switches that change nothing are told in one warning; explanations are not among them."""
    ServedNative(
        models.get("text-classification"),
        BetterTransformer="true",
        model_parallel=False,
        captum_explanation=True,
        nonsense=1,
    )
    warnings = [
        record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
    ]
    assert warnings == ["These settings have no effect here: BetterTransformer, nonsense."]
