"""Golden outputs at load: models that answer as before become ready, others say what differs."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from flambeau.archive.golden import (
    GOLDEN_PATH,
    MAX_SAMPLES,
    Golden,
    Sample,
    read_golden,
    write_golden,
)
from flambeau.archive.graphs import Form
from flambeau.archive.verdict import versions
from flambeau.errors import ArchiveError, LoadError
from flambeau.handlers.export import export
from flambeau.handlers.export_request import ExportRequest
from flambeau.handlers.golden_answers import answer_samples
from flambeau.handlers.golden_request import GoldenRequest
from flambeau.handlers.native_model import Device, load_parts
from flambeau.handlers.runner import Runner
from flambeau.handlers.tune_request import TuneRequest
from flambeau.handlers.tuning import tune
from flambeau.ipc.messages import Load
from flambeau.testing.models import Architecture, tiny_model
from flambeau.types import TaskName
from tests.handlers.conftest import process_state
from tests.handlers.native_models import LABELS, QUESTION, Models, models, one_thread

__all__ = ["models", "one_thread", "process_state"]  # fixtures

SAMPLES: dict[TaskName, list[Any]] = {
    "text-classification": [
        "the movie was great",
        {"text": "a zebra"},
        {"inputs": ["what", "a movie"], "parameters": {"top_k": 2}},
    ],
    "token-classification": ["Ada Lovelace lived in London"],
    "question-answering": [QUESTION],
    "text-generation": [{"inputs": "the movie", "parameters": {"max_new_tokens": 12}}],
}


class Archives:
    """Unpacked archives of tiny models, each with golden outputs that it gave itself."""

    def __init__(self, models: Models, root: Path) -> None:
        self._models = models
        self._root = root

    def get(self, task: TaskName) -> Path:
        """An archive to read from; `copy` gives one to change."""
        folder = self._root / task
        if not folder.is_dir():
            architecture: Architecture = "gpt2" if task == "text-generation" else "bert"
            shutil.copytree(self._models.get(task, architecture), folder)
            (folder / "MAR-INF").mkdir()
            section = {"handler": "transformers_handler", "serializedFile": "model.safetensors"}
            manifest = {"model": section | {"modelName": "m", "configFile": "model-config.yaml"}}
            (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
            settings(folder)
            answer(folder, *SAMPLES[task])
        return folder

    def copy(self, task: TaskName, place: Path) -> Path:
        return shutil.copytree(self.get(task), place / "archive")


def settings(folder: Path, **handler: object) -> None:
    (folder / "model-config.yaml").write_text(json.dumps({"handler": handler}))


def answer(folder: Path, *samples: object) -> None:
    """Let a model give its own golden outputs."""
    file = folder / "samples.jsonl"
    file.write_text("\n".join(json.dumps(sample) for sample in samples))
    answer_samples(GoldenRequest(samples=file, reference=folder, output=folder / GOLDEN_PATH))


def load(folder: Path, **fields: Any) -> Runner:
    values: dict[str, Any] = {"name": "m", "version": "1.0", "batch_size": 8, "handler": ""}
    return Runner.load(Load(model_dir=str(folder), **values | fields))


def refusal(folder: Path, **fields: Any) -> str:
    """Why an archive does not become ready."""
    with pytest.raises(LoadError) as told:
        load(folder, **fields)
    return told.value.message


def add_noise(folder: Path, task: TaskName = "text-classification") -> None:
    """Give a model other weights, as another training run would."""
    architecture: Architecture = "gpt2" if task == "text-generation" else "bert"
    other = tiny_model(folder.parent / "other", task, architecture, labels=LABELS, seed=1)
    shutil.copy(other / "model.safetensors", folder / "model.safetensors")


@pytest.fixture(scope="module")
def archives(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Archives:
    return Archives(models, tmp_path_factory.mktemp("archives"))


@pytest.mark.parametrize("task", SAMPLES)
def test_a_model_that_answers_as_before_becomes_ready(
    archives: Archives, task: TaskName, caplog: pytest.LogCaptureFixture
) -> None:
    """Its description tells how many agree; of what was asked no client's metrics hear."""
    with caplog.at_level(logging.INFO, "flambeau"):
        runner = load(archives.get(task))
    assert runner.info["golden"] == f"{len(SAMPLES[task])} agree"
    assert "golden outputs agree" in caplog.text
    assert runner.measured() is None
    assert runner.context.request_processor is None


@pytest.mark.parametrize("task", SAMPLES)
def test_other_weights_are_refused(archives: Archives, task: TaskName, tmp_path: Path) -> None:
    """The reason names the sample, the place, what computed and what to do, and no text."""
    folder = archives.copy(task, tmp_path)
    add_noise(folder, task)
    told = refusal(folder)
    assert told.startswith(f"For golden sample 1 of {len(SAMPLES[task])} the model gave ")
    assert "(tolerance 0.0001, engine torch, precision fp32, device cpu)." in told
    assert "pack it again with --golden" in told
    assert "golden: off" in told
    assert not any(word in told for word in ("Jim", "Ada", "Lovelace", "movie", "zebra"))


def test_weights_in_another_precision_are_refused(archives: Archives, tmp_path: Path) -> None:
    """A checkpoint that was saved in bf16 on the way answers differently in the third digit."""
    folder = archives.copy("text-classification", tmp_path)
    file = folder / "model.safetensors"
    rounded = {
        name: tensor.bfloat16().float()
        for name, tensor in safetensors.torch.load_file(file).items()
    }
    safetensors.torch.save_file(rounded, file, {"format": "pt"})
    assert "gave 0." in refusal(folder)


def test_what_a_precision_rounds_is_allowed(archives: Archives, tmp_path: Path) -> None:
    """bf16 has a tolerance of its own; the settings' holds where there is one."""
    folder = archives.copy("text-classification", tmp_path)
    settings(folder, precision="bf16")
    runner = load(folder)
    assert (runner.info["precision"], runner.info["golden"]) == ("bf16", "3 agree")
    settings(folder, precision="bf16", golden={"tolerance": 1e-6})
    assert "(tolerance 1e-06, engine torch, precision bf16" in refusal(folder)


def test_the_check_can_be_turned_off(
    archives: Archives, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning; a setting that is none is refused with what is allowed."""
    folder = archives.copy("text-classification", tmp_path)
    add_noise(folder)
    for off in (False, "off"):
        settings(folder, golden=off)
        assert load(folder).info["golden"] == "not checked (golden: off)"
    assert "Golden outputs are not checked" in caplog.text
    for wrong in ("maybe", {"tolerance": 0}, {"tolerance": True}, {"tolerances": 1}, {}, 3):
        settings(folder, golden=wrong)
        assert "Allowed: on, off, or a section with a tolerance" in refusal(folder)


def test_a_changed_library_is_named(archives: Archives, tmp_path: Path) -> None:
    """The packages that gave the answers are kept; which are others now is told."""
    folder = archives.copy("text-classification", tmp_path)
    add_noise(folder)
    golden = read_golden(folder)
    assert golden is not None
    assert golden.versions == versions()
    older = Golden(golden.samples, golden.versions | {"transformers": "4.57.6"})
    write_golden(folder / GOLDEN_PATH, older)
    here = versions()["transformers"]
    assert f"packed with transformers 4.57.6 and not {here})" in refusal(folder)


def test_a_sample_that_the_model_refuses_now(archives: Archives, tmp_path: Path) -> None:
    """An error is no answer."""
    folder = archives.copy("text-classification", tmp_path)
    write_golden(folder / GOLDEN_PATH, Golden([Sample({"txt": "a"}, "A")]))
    told = refusal(folder)
    assert "For golden sample 1 of 1 the model gave no answer: Invalid input" in told


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "MAR-INF/golden.json cannot be read"),
        ('{"samples": [{"input": 1}]}', "MAR-INF/golden.json cannot be read"),
        (json.dumps({"samples": [{"input": "a", "output": 1}] * (MAX_SAMPLES + 1)}), "64 samples"),
        (" " * 1_100_000, "more than 1048576 bytes"),
    ],
)
def test_a_broken_file(archives: Archives, tmp_path: Path, text: str, reason: str) -> None:
    """Whatever is wrong with the file itself is told as such, and never passed over."""
    folder = archives.copy("text-classification", tmp_path)
    (folder / GOLDEN_PATH).write_text(text)
    assert reason in refusal(folder)


def test_another_form_of_the_model_is_held_to_the_same_answers(
    archives: Archives, tmp_path: Path
) -> None:
    """A graph in fp32 agrees; one of another model does not, and tuning never chooses it."""
    folder = archives.copy("text-classification", tmp_path)

    def add_graph(source: Path) -> None:
        form = Form("onnx", "fp32")
        request = ExportRequest(
            folder=source, task="text-classification", forms=(form,), output=folder
        )
        export(request)

    add_graph(folder)
    assert load(folder, measured=("onnx", "fp32")).info["golden"] == "3 agree"
    add_graph(tiny_model(tmp_path / "other", "text-classification", labels=LABELS, seed=1))
    assert "engine onnx" in refusal(folder, measured=("onnx", "fp32"))
    texts = folder / "texts.txt"
    texts.write_text("the movie\n")
    request = TuneRequest(
        archive=folder, model_dir=folder, threads=1, texts=texts, precision="fp32", agreement=0,
        max_difference=1,
    )  # fmt: skip
    manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())
    said: list[str] = []
    verdict = tune(request, load_parts(folder, manifest, {}, device=Device()), said.append)
    accepted = {one.engine: one.accepted for one in verdict.candidates}
    assert accepted["torch"]
    assert not accepted["onnx"]
    assert any(line.startswith("onnx fp32 is left out. For golden sample 1") for line in said)


OWN = """
import os

def handle(data, context):
    if data is None:
        return None
    return [{"said": row["body"], "score": float(os.path.getsize("size"))} for row in data]
"""


def test_a_handler_of_one_s_own_is_checked_too(tmp_path: Path) -> None:
    """Through the whole path of a request, whatever the handler computes in."""
    folder = tmp_path / "archive"
    (folder / "MAR-INF").mkdir(parents=True)
    (folder / "own.py").write_text(OWN)
    (folder / "size").write_bytes(b"12345")
    file = folder / "samples.jsonl"
    file.write_text('{"input": "hi", "output": {"said": "hi", "score": 5.0}}')
    manifest = {"model": {"modelName": "m", "handler": "own.py"}}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    answer_samples(GoldenRequest(samples=file, reference=folder, output=folder / GOLDEN_PATH))
    assert load(folder).info == {"handler": "own", "golden": "1 agree"}
    (folder / "size").write_bytes(b"123456")
    told = refusal(folder)
    assert told.startswith("For golden sample 1 of 1 the model gave 6 at score, not 5 (tolerance")
    assert load(folder, service_envelope="body", asynchronous=True).info == {"handler": "own"}


def samples_of(folder: Path, *lines: str) -> GoldenRequest:
    file = folder / "samples.jsonl"
    file.write_text("\n".join(lines))
    return GoldenRequest(samples=file, reference=folder, output=folder / "out.json")


def test_outputs_that_are_given_must_be_the_model_s_own(archives: Archives, tmp_path: Path) -> None:
    """What is right is kept as it was given; what is not ends the packing, with its line."""
    folder = archives.copy("text-classification", tmp_path)
    golden = read_golden(folder)
    assert golden is not None
    given = golden.samples[0].output
    given[0]["score"] = round(given[0]["score"], 5)
    right = json.dumps({"input": golden.samples[0].input, "output": given})
    answer_samples(samples_of(folder, right, "", '"a movie"'))
    (folder / "out.json").rename(folder / GOLDEN_PATH)
    kept = read_golden(folder)
    assert kept is not None
    assert kept.samples[0].output[0]["score"] == given[0]["score"]
    assert load(folder).info["golden"] == "2 agree"
    given[0]["score"] += 0.01
    wrong = json.dumps({"input": golden.samples[0].input, "output": given})
    with pytest.raises(ArchiveError, match=r"line 3: the model gave 0\.\d+ at \[0\]\.score, not"):
        answer_samples(samples_of(folder, "", "", wrong))
    assert not (folder / "out.json").exists()


def test_answers_that_change_each_time_are_refused(archives: Archives, tmp_path: Path) -> None:
    """Sampling needs a seed to be repeatable; with one it is."""
    folder = archives.copy("text-generation", tmp_path)
    sampled = {"inputs": "the movie", "parameters": {"do_sample": True, "max_new_tokens": 20}}
    seeded = {"inputs": "the", "parameters": {"do_sample": True, "seed": 3, "max_new_tokens": 9}}
    with pytest.raises(ArchiveError, match="line 2: the model answers differently each time"):
        answer_samples(samples_of(folder, json.dumps(seeded), json.dumps(sampled)))
    answer(folder, seeded)
    assert load(folder).info["golden"] == "1 agree"


def test_what_would_not_become_ready_is_not_packed(archives: Archives, tmp_path: Path) -> None:
    """The archive that is to be served is loaded as a server does it, with the reference's answers."""
    folder = archives.copy("text-classification", tmp_path)
    served = shutil.copytree(folder, tmp_path / "served")
    add_noise(served)
    request = GoldenRequest(
        samples=folder / "samples.jsonl", reference=folder, archive=served,
        output=tmp_path / "golden.json",
    )  # fmt: skip
    with pytest.raises(LoadError, match=r"would not become ready\. For golden sample 1 of 3"):
        answer_samples(request)
