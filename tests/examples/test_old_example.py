"""The commands of TorchServe's Transformers example, as its README here has them.

They run in a copy of the example's folder, with tiny models in place of the hub's.
"""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flambeau.cli.torch_model_archiver import main as torch_model_archiver
from flambeau.handlers.runner import Runner
from flambeau.ipc.messages import Load
from flambeau.testing.models import Architecture, tiny_model
from flambeau.types import Chunk, Field, InferenceRequest, TaskName

EXAMPLE = Path(__file__).parents[2] / "examples" / "huggingface_transformers"
SCRIPT = "Download_Transformer_models.py"
PACKED = re.compile(r"^torch-model-archiver .*$", re.MULTILINE)

MODES: dict[str, tuple[TaskName, Architecture, str, str]] = {
    "sequence_classification": (
        "text-classification",
        "bert",
        "BERTSeqClassification",
        "Seq_classification_artifacts",
    ),
    "token_classification": (
        "token-classification",
        "roberta",
        "BERTTokenClassification",
        "Token_classification_artifacts",
    ),
    "question_answering": ("question-answering", "distilbert", "BERTQA", "QA_artifacts"),
    "text_generation": ("text-generation", "gpt2", "Textgeneration", "Text_gen_artifacts"),
}
NUM_LABELS = {"sequence_classification": 2, "token_classification": 9}

pytestmark = pytest.mark.slow

Script = Callable[..., int]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example's folder, which is the working directory."""
    copy = Path(shutil.copytree(EXAMPLE, tmp_path / "example"))
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def download(monkeypatch: pytest.MonkeyPatch) -> Script:
    """`python Download_Transformer_models.py …` in this process; returns the exit code."""

    def run_script(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(SCRIPT, run_name="__main__")
        return int(ended.value.code or 0)

    return run_script


def write_settings(folder: Path, form: str, mode: str, save_mode: str) -> None:
    """Edit the configuration as the README says; a local folder stands for the hub's model."""
    task, architecture, _, _ = MODES[mode]
    labels = [f"L{index}" for index in range(NUM_LABELS.get(mode, 0))]
    tiny_model(folder / "my_model", task, architecture, labels=labels)
    settings = {
        "model_name": "./my_model",
        "mode": mode,
        "num_labels": NUM_LABELS.get(mode, 0),
        "save_mode": save_mode,
    }
    if form == "setup_config.json":
        texts = {key: str(value) for key, value in settings.items()}
        setup = json.loads((folder / form).read_text()) | texts
        (folder / form).write_text(json.dumps(setup))
    else:
        config = yaml.safe_load((folder / form).read_text())
        config["handler"] |= settings
        (folder / form).write_text(yaml.safe_dump(config))


def command(archive: str, save_mode: str, form: str) -> list[str]:
    """The README's command that packs a task's model in one save mode and configuration form."""
    weights = "traced_model.pt" if save_mode == "torchscript" else "model.safetensors"
    (found,) = [
        line
        for line in PACKED.findall((EXAMPLE / "README.md").read_text())
        if f"--model-name {archive} " in line and weights in line and form in line
    ]
    return shlex.split(found)[1:]


def ask(archive: Path, sample: Path) -> Any:
    """The answer of the packed model to a sample file, through the runner of a worker."""
    model_dir = archive.with_suffix("")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(model_dir)
    manifest = json.loads((model_dir / "MAR-INF" / "MANIFEST.json").read_text())
    runner = Runner.load(
        Load(
            name="my_tc",
            version="1.0",
            model_dir=str(model_dir),
            handler=manifest["model"]["handler"],
            batch_size=1,
        )
    )
    emitted: list[Any] = []
    item = InferenceRequest("request", {}, [Field("body", "", sample.read_bytes())])
    runner.run([item], lambda _, outcome: emitted.append(outcome))
    (chunk,) = emitted
    assert isinstance(chunk, Chunk), chunk
    return chunk.body.decode()


@pytest.fixture(autouse=True)
def _imports() -> Any:
    """Undo what loading a handler does to the import system."""
    path, finders, modules = list(sys.path), list(sys.meta_path), set(sys.modules)
    yield
    sys.path[:], sys.meta_path[:] = path, finders
    for name in set(sys.modules) - modules:
        if name == "Transformer_handler_generalized" or name.split(".")[0] == "ts":
            del sys.modules[name]


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("save_mode", ["pretrained", "torchscript"])
@pytest.mark.parametrize("mode", list(MODES))
def test_the_steps_of_each_task_give_an_answer(
    folder: Path, download: Script, mode: str, save_mode: str
) -> None:
    """Save, pack and ask: each task, in both save modes, with model-config.yaml."""
    _, _, name, artifacts = MODES[mode]
    write_settings(folder, "model-config.yaml", mode, save_mode)
    assert download() == 0
    assert torch_model_archiver(command(name, save_mode, "model-config.yaml")) == 0
    with zipfile.ZipFile(f"{name}.mar") as packed:
        assert {"tokenizer.json", "tokenizer_config.json", "config.json"} <= set(packed.namelist())
    answer = ask(folder / f"{name}.mar", folder / artifacts / "sample_text.txt")
    match mode:
        case "sequence_classification":
            assert answer in ("Accepted", "Not Accepted")
        case "token_classification":
            assert {label for _, label in json.loads(answer)} <= {
                *("O", "B-MISC", "I-MISC", "B-PER", "I-PER"),
                *("B-ORG", "I-ORG", "B-LOC", "I-LOC"),
            }
        case "question_answering":
            assert (
                answer
                in json.loads((folder / artifacts / "sample_text.txt").read_text())["context"]
            )
        case _:
            assert answer.startswith((folder / artifacts / "sample_text.txt").read_text().strip())


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("save_mode", ["pretrained", "torchscript"])
def test_the_first_form_with_setup_config_works(
    folder: Path, download: Script, save_mode: str
) -> None:
    """setup_config.json, named or alone in the folder, and packed among the extra files."""
    write_settings(folder, "setup_config.json", "sequence_classification", save_mode)
    if save_mode == "pretrained":
        assert download("setup_config.json") == 0
    else:
        (folder / "model-config.yaml").unlink()
        assert download() == 0
    name = "BERTSeqClassification"
    assert torch_model_archiver(command(name, save_mode, "setup_config.json")) == 0
    sample = folder / "Seq_classification_artifacts" / "sample_text.txt"
    assert ask(folder / f"{name}.mar", sample) in ("Accepted", "Not Accepted")


def test_the_old_pickle_name_is_an_error_that_says_so(
    folder: Path, download: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    """Old scripts name pytorch_model.bin, which is not written any more."""
    write_settings(folder, "model-config.yaml", "sequence_classification", "pretrained")
    assert download() == 0
    line = command("BERTSeqClassification", "pretrained", "setup_config.json")
    old = [part.replace("model.safetensors", "pytorch_model.bin") for part in line]
    assert torch_model_archiver(old) == 1
    assert "File does not exist: Transformer_model/pytorch_model.bin" in capsys.readouterr().err


def test_the_script_fails_with_one_line(folder: Path) -> None:
    """As it is typed: a model that is nowhere is one line on stderr and exit code 1."""
    write_settings(folder, "model-config.yaml", "question_answering", "pretrained")
    shutil.rmtree(folder / "my_model")
    typed = [sys.executable, SCRIPT]
    done = subprocess.run(typed, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == "Reading model-config.yaml (not setup_config.json: name it to use it)\n"
    assert done.stderr.count("\n") == 1
    assert "'./my_model': there is no such folder" in done.stderr
    done = subprocess.run(
        [*typed, "no.json"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "There is no configuration file" in done.stderr


def test_the_script_runs_as_it_is_typed(folder: Path) -> None:
    """In a process of its own: progress on stdout, nothing on stderr."""
    write_settings(folder, "model-config.yaml", "sequence_classification", "torchscript")
    done = subprocess.run(
        [sys.executable, SCRIPT], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "Reading",
        "Loading",
        "do_lower_case",
        "max_length",
        "Tracing",
        "Saved",
    ]
