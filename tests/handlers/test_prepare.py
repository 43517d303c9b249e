"""Preparing models: what is saved computes what the source computes, and errors are one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from flambeau.errors import ConfigError, FlambeauError, LoadError
from flambeau.handlers.child_request import decode_request, encode_request
from flambeau.handlers.prepare import prepare
from flambeau.handlers.prepare_request import (
    PrepareRequest,
    make_request,
    read_handler_section,
)
from flambeau.testing.models import MAX_POSITIONS, Architecture, tiny_model
from flambeau.types import TaskName
from tests.parity.models import write_model
from tests.parity.specs import MODELS as MODELS_BY_NAME

pytestmark = pytest.mark.slow

MODELS: dict[TaskName, tuple[Architecture, Any, tuple[str, ...]]] = {
    "text-classification": ("bert", AutoModelForSequenceClassification, ("logits",)),
    "token-classification": ("roberta", AutoModelForTokenClassification, ("logits",)),
    "question-answering": (
        "distilbert",
        AutoModelForQuestionAnswering,
        ("start_logits", "end_logits"),
    ),
    "text-generation": ("gpt2", AutoModelForCausalLM, ("logits",)),
}
TEXTS = ["Ada lived in London", "a", "the great model carries the torch of Paris " * 9]
LABELS = ["bad", "good", "mixed"]

Prepare = Callable[..., tuple[Path, list[str]]]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[TaskName, Path]:
    """One tiny model per task, each of another architecture."""
    root = tmp_path_factory.mktemp("sources")
    return {
        task: tiny_model(root / task, task, architecture, labels=LABELS)
        for task, (architecture, _, _) in MODELS.items()
    }


@pytest.fixture
def bert(sources: dict[TaskName, Path], tmp_path: Path) -> Path:
    """A copy of the classification model, to be changed."""
    return Path(shutil.copytree(sources["text-classification"], tmp_path / "source"))


@pytest.fixture
def run(tmp_path: Path) -> Prepare:
    """`run(model, **fields of PrepareRequest)` returns the output folder and the report's lines."""

    def run_prepare(model: Path, **fields: Any) -> tuple[Path, list[str]]:
        lines: list[str] = []
        fields = {"output": tmp_path / "Transformer_model", **fields}
        return prepare(PrepareRequest(model_name=str(model), **fields), lines.append), lines

    return run_prepare


def rows(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of three texts of different lengths, padded on the right."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_POSITIONS)
    encodings = [tokenizer.encode(text).ids for text in TEXTS]
    width = max(map(len, encodings))
    ids = torch.tensor([[*row, *[1] * (width - len(row))] for row in encodings])
    return ids, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in encodings])


def scores(folder: Path, task: TaskName) -> list[torch.Tensor]:
    """What plain Transformers computes from a folder for `rows`."""
    _, loader, names = MODELS[task]
    model = loader.from_pretrained(folder)
    ids, mask = rows(folder)
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask)
    return [output[name] for name in names]


def difference(one: list[torch.Tensor], other: list[torch.Tensor], mask: torch.Tensor) -> float:
    """The largest difference between scores, padding left out."""
    pairs = list(zip(one, other, strict=True))
    real = [(a - b)[mask.bool()] if a.shape[:2] == mask.shape else a - b for a, b in pairs]
    return max(gap.abs().max().item() for gap in real)


@pytest.mark.parametrize("task", list(MODELS))
def test_pretrained_keeps_the_scores(
    sources: dict[TaskName, Path], run: Prepare, task: TaskName
) -> None:
    """Safetensors and the source's own tokenizer files; Transformers computes the same from them."""
    source = sources[task]
    output, lines = run(source)
    names = {path.name for path in output.iterdir()} - {"generation_config.json"}
    assert names == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (output / name).read_bytes() == (source / name).read_bytes()
    assert difference(scores(output, task), scores(source, task), rows(source)[1]) < 1e-5
    assert lines[0] == f"Loading {source} for {task}"
    assert lines[-1].startswith(f"Saved {output}: config.json (")
    assert len(lines) == 2


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("task", list(MODELS))
def test_torchscript_keeps_the_scores(
    sources: dict[TaskName, Path], run: Prepare, task: TaskName
) -> None:
    """One traced file takes rows of any number and length, and computes what the source does."""
    source = sources[task]
    output, lines = run(source, save_mode="torchscript", max_length=40)
    load: Any = torch.jit.load
    with torch.no_grad():
        traced = load(str(output / "traced_model.pt"))(*rows(output))
    assert difference(list(traced), scores(source, task), rows(source)[1]) < 1e-5
    config = json.loads((output / "config.json").read_text())
    assert (
        config["architectures"] == json.loads((source / "config.json").read_text())["architectures"]
    )
    assert (output / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert not (output / "model.safetensors").exists()
    assert "Tracing with 40 tokens, and comparing with other lengths and batch sizes" in lines


@pytest.mark.parametrize("task", ["zero-shot-classification", "text-ranking", "embeddings"])
def test_other_tasks_of_a_model_are_traced_as_it_is(
    bert: Path, run: Prepare, task: TaskName
) -> None:
    """Whatever is asked of its outputs later, they are compared with the model's own."""
    output, lines = run(bert, save_mode="torchscript", task=task, max_length=40)
    assert (output / "traced_model.pt").is_file()
    assert "Tracing with 40 tokens, and comparing with other lengths and batch sizes" in lines


def test_a_traced_length_is_cut_to_what_the_model_reads(bert: Path, run: Prepare) -> None:
    """A max_length beyond the model's positions is said, and cut."""
    _, lines = run(bert, save_mode="torchscript", max_length=512)
    assert f"max_length is 512, but {bert} reads {MAX_POSITIONS} tokens at most" in lines


def test_labels_stay_where_their_number_is_right(bert: Path, run: Prepare) -> None:
    """num_labels that the model has changes nothing; another number is an error that says so."""
    output, _ = run(bert, num_labels=3)
    config = json.loads((output / "config.json").read_text())
    assert list(config["id2label"].values()) == LABELS
    with pytest.raises(LoadError, match="num_labels is 2, but the model has 3"):
        run(bert, num_labels=2)


def test_a_new_head_is_said(sources: dict[TaskName, Path], run: Prepare) -> None:
    """A model without a head for the task gets one of the size asked for, with a warning."""
    output, lines = run(sources["question-answering"], task="token-classification", num_labels=9)
    assert len(json.loads((output / "config.json").read_text())["id2label"]) == 9
    (warning,) = [line for line in lines if "is new" in line]
    assert "classifier.bias, classifier.weight" in warning
    assert "\n" not in warning


def test_a_vocabulary_becomes_a_tokenizer_file(bert: Path, run: Prepare) -> None:
    """Without tokenizer.json one is made from vocab.txt, and do_lower_case counts."""
    saved = json.loads((bert / "tokenizer.json").read_text())["model"]["vocab"]
    (bert / "tokenizer.json").unlink()
    (bert / "vocab.txt").write_text("\n".join(sorted(saved, key=saved.__getitem__)))
    output, _ = run(bert, do_lower_case=True)
    encoding = Tokenizer.from_file(str(output / "tokenizer.json")).encode("THE model")
    assert encoding.tokens == ["[CLS]", "the", "model", "[SEP]"]


def test_a_sentencepiece_model_becomes_a_tokenizer_file(run: Prepare, tmp_path: Path) -> None:
    """Without tokenizer.json the file is the one that the model's class had, with its settings."""
    source = tmp_path / "source"
    write_model(MODELS_BY_NAME["xlm-roberta-topics"], source)
    saved = json.loads((source / "tokenizer.json").read_text())
    (source / "tokenizer.json").unlink()
    output, _ = run(source)
    assert json.loads((output / "tokenizer.json").read_text()) == saved
    settings = json.loads((output / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "XLMRobertaTokenizer"
    assert settings["mask_token"] == "<mask>"


def test_a_tokenizer_file_wins_over_do_lower_case(bert: Path, run: Prepare) -> None:
    """The model's own file is kept as it is; the difference is said."""
    _, lines = run(bert, do_lower_case=True)
    assert any("keeps case: its own file is followed" in line for line in lines)


def test_a_pickle_is_read_with_care_and_saved_as_safetensors(bert: Path, run: Prepare) -> None:
    """pytorch_model.bin is read, tensors only, and said; one with code in it is an error."""
    expected = scores(bert, "text-classification")
    model = AutoModelForSequenceClassification.from_pretrained(bert)
    (bert / "model.safetensors").unlink()
    torch.save(model.state_dict(), bert / "pytorch_model.bin")
    output, lines = run(bert)
    assert (output / "model.safetensors").exists()
    assert difference(scores(output, "text-classification"), expected, rows(bert)[1]) < 1e-5
    assert "pytorch_model.bin is a pickle: only tensors are read from it" in lines
    torch.save({"weights": Path("anything but a tensor")}, bert / "pytorch_model.bin")
    with pytest.raises(LoadError):
        run(bert)


def test_an_older_model_is_replaced_and_nothing_else(bert: Path, run: Prepare) -> None:
    """A folder with a model alone is replaced; with a foreign file it is kept, and the file named."""
    output, _ = run(bert, save_mode="torchscript")
    run(bert)
    assert not (output / "traced_model.pt").exists()
    (output / "notes.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds more than a model \(notes.md\)"):
        run(bert)
    assert (output / "notes.md").read_text() == "mine"
    (output / "notes.md").unlink()
    (output / "checkpoint-1").mkdir()
    with pytest.raises(ConfigError, match="checkpoint-1"):
        run(bert)


def test_a_failure_leaves_the_output_as_it_was(bert: Path, run: Prepare) -> None:
    """Neither a half-written folder nor a lost older one, and no hidden leftovers."""
    output, _ = run(bert)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    (bert / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(LoadError, match="cannot be loaded for text-classification"):
        run(bert)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert sorted(path.name for path in output.parent.iterdir()) == ["Transformer_model", "source"]


def test_a_model_is_not_saved_over_itself(bert: Path, run: Prepare) -> None:
    """The output folder may not be the model's own."""
    with pytest.raises(ConfigError, match="over itself"):
        run(bert, output=bert)
    assert (bert / "model.safetensors").exists()


def test_the_working_directory_is_not_replaced(
    bert: Path, run: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even an empty one, nor a folder above it."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for output in (Path(), Path("..")):
        with pytest.raises(ConfigError, match="working directory"):
            run(bert, output=output)


def change_config(bert: Path, **values: object) -> None:
    config = json.loads((bert / "config.json").read_text()) | values
    (bert / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("break_model", "message"),
    [
        (lambda bert: (bert / "config.json").unlink(), "is a folder without config.json"),
        (lambda bert: (bert / "tokenizer.json").unlink(), "has no tokenizer"),
        (lambda bert: (bert / "tokenizer.json").write_text("{}"), "tokenizer of .* cannot be read"),
        (lambda bert: (bert / "model.safetensors").unlink(), "no file named model.safe"),
        (lambda bert: change_config(bert, hidden_size=16), "has the shape"),
        (lambda bert: change_config(bert, model_type="nothing"), "cannot be loaded"),
        (lambda bert: change_config(bert, architectures=["BertForPreTraining"]), "Give --task"),
        (
            lambda bert: change_config(
                bert, model_type="own", auto_map={"AutoConfig": "own.OwnConfig"}
            ),
            "Python code of its own",
        ),
        (lambda bert: change_config(bert, model_type="distilbert"), "no weights for most of"),
    ],
)
def test_each_broken_model_is_one_clear_line(
    bert: Path, run: Prepare, break_model: Callable[[Path], None], message: str
) -> None:
    """What is wrong with a model's folder is said in one line that names the model."""
    break_model(bert)
    with pytest.raises(FlambeauError, match=message) as caught:
        run(bert)
    assert "\n" not in str(caught.value)
    assert str(bert) in str(caught.value)


def test_a_form_that_an_architecture_lacks_is_said(
    sources: dict[TaskName, Path], run: Prepare
) -> None:
    """DistilBERT cannot generate text."""
    with pytest.raises(LoadError, match="has no such form"):
        run(sources["question-answering"], task="text-generation")


def test_a_request_survives_json() -> None:
    """What the command sends is what the child gets."""
    request = PrepareRequest(model_name="a", task="text-generation", output=Path("x/y"))
    assert decode_request(encode_request(request), PrepareRequest) == request


def test_both_configuration_files_make_the_same_request(tmp_path: Path) -> None:
    """setup_config.json with its strings, and the handler section of model-config.yaml."""
    (tmp_path / "setup_config.json").write_text(
        '{"model_name": "m", "mode": "token_classification", "num_labels": "9",'
        ' "do_lower_case": true, "save_mode": "torchscript", "max_length": "150",'
        ' "hardware": "", "batch_size": "1", "BetterTransformer": false}'
    )
    (tmp_path / "model-config.yaml").write_text(
        "minWorkers: 1\nhandler:\n  model_name: m\n  mode: token_classification\n  num_labels: 9\n"
        "  do_lower_case: true\n  save_mode: torchscript\n  max_length: 150\n"
    )
    requests = [
        make_request(read_handler_section(tmp_path / name))
        for name in ("setup_config.json", "model-config.yaml")
    ]
    assert requests[0] == requests[1]
    assert requests[0] == PrepareRequest(
        model_name="m",
        task="token-classification",
        save_mode="torchscript",
        num_labels=9,
        max_length=150,
        do_lower_case=True,
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model_name": "m", "hardware": "neuronx"}, "AWS neuronx is not supported"),
        ({"mode": "question_answering"}, "model_name is missing"),
        ({"model_name": "m", "save_mode": "onnx"}, "'save_mode' is 'onnx'"),
    ],
)
def test_wrong_settings_are_named(given: dict[str, object], message: str) -> None:
    """Keys that cannot be followed are errors that name them."""
    with pytest.raises(ConfigError, match=message):
        make_request(given)
    assert make_request({"model_name": "m", "num_labels": "0", "mode": "question_answering"}) == (
        PrepareRequest(model_name="m", task="question-answering")
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x: 2024-99-99\n", "model-config.yaml holds a value that YAML cannot represent"),
        ("- handler\n", "model-config.yaml, line 1: it must be a mapping"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, content: str, message: str) -> None:
    """Whatever is wrong with a YAML file is an error that names it."""
    file = tmp_path / "model-config.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_handler_section(file)
