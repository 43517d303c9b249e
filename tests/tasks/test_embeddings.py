"""Embeddings: poolings, prompts, sizes and forms of vectors, and what is refused."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flambeau.errors import ConfigError, LoadError
from flambeau.tasks.base import ForwardTask, Head, RowOutputs, TextInput, Window
from flambeau.tasks.base.numbers import short_numbers
from flambeau.tasks.embeddings import Task
from flambeau.testing.sentence_models import add_modules, dense_weights
from tests.tasks.samples import LEGACY, error_of, spaced_encoding, with_parameters

WIDTH = 4
STATES = np.array(
    [[1, 0, -2, 4], [3, 2, 1, 0], [0, -1, 5, 2], [2, 2, 2, 2]], dtype=np.float32
)  # [CLS], two tokens of a word, [SEP]
ENTRY = TextInput("torch")
NORMALIZE: Any = ("Normalize", {}, {})


def made(folder: Path | None = None) -> Task:
    return Task(Head(config={"hidden_size": WIDTH}, folder=str(folder) if folder else None))


def modelled(folder: Path, *modules: Any, **settings: Any) -> Task:
    return made(add_modules(folder, modules, **settings))


def vector(task: ForwardTask, states: Any = STATES, **parameters: Any) -> Any:
    window = Window(spaced_encoding(ENTRY.text), {"last_hidden_state": states})
    rows = [RowOutputs(ENTRY, [window])]
    return task.postprocess(rows, ENTRY, with_parameters(task, **parameters))


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("cls", [1, 0, -2, 4]),
        ("mean", [1.5, 0.75, 1.5, 2]),
        ("max", [3, 2, 5, 4]),
        ("last-token", [2, 2, 2, 2]),
        ("lasttoken", [2, 2, 2, 2]),
        ("mean_sqrt_len", [3, 1.5, 3, 4]),
        ("weightedmean", [1.5, 0.9, 2.3, 1.8]),
    ],
)
def test_poolings(pooling: str, expected: list[float]) -> None:
    """What a request may choose, special tokens included; later tokens weigh more in the last."""
    assert vector(made(), pooling=pooling) == pytest.approx(expected)


def test_the_mean_is_the_default() -> None:
    """A model that was saved without sentence-transformers; legacy answers are the same list."""
    task = made()
    assert vector(task) == vector(task, pooling="mean")
    row = RowOutputs(ENTRY, [Window(spaced_encoding("torch"), {"last_hidden_state": STATES})])
    options = with_parameters(task)
    assert task.postprocess([row], ENTRY, options) == vector(task)
    assert LEGACY.shape == "legacy"


def test_an_archive_may_choose_the_pooling(tmp_path: Path) -> None:
    """Where the model does not say, or says something else; not where modules need its own."""
    config = {"hidden_size": WIDTH}
    assert vector(Task(Head(config=config, pooling="cls"))) == [1, 0, -2, 4]
    both: Any = ("Pooling", {"pooling_mode": ["mean", "max"]}, {})
    place = add_modules(tmp_path, [both])
    assert len(vector(made(place))) == 2 * WIDTH
    chosen = Task(Head(config=config, folder=str(place), pooling="last-token"))
    assert vector(chosen) == [2, 2, 2, 2]
    assert "from 1 to 4" in error_of(chosen, {"inputs": "a", "dimensions": 5}).message
    (tmp_path / "dense").mkdir()
    dense = add_modules(tmp_path / "dense", [both, ("Dense", {}, dense_weights(2 * WIDTH, 2))])
    with pytest.raises(ConfigError, match="needs all of mean, max"):
        Task(Head(config=config, folder=str(dense), pooling="cls"))


def test_vectors_are_made_1_long_where_asked(tmp_path: Path) -> None:
    """By the request, or by the model's own module, which a request can switch off."""
    plain = vector(made())
    assert np.linalg.norm(vector(made(), normalize=True)) == pytest.approx(1)
    normalizing = modelled(tmp_path, ("Pooling", {}, {}), NORMALIZE)
    assert vector(normalizing) == vector(made(), normalize=True)
    assert vector(normalizing, normalize=False) == plain
    assert vector(normalizing, states=STATES * 0) == [0, 0, 0, 0]


def test_dimensions_are_the_first_ones(tmp_path: Path) -> None:
    """Cut vectors are made 1 long again where whole ones are."""
    assert vector(made(), dimensions=2) == vector(made())[:2]
    cut = vector(modelled(tmp_path, ("Pooling", {}, {}), NORMALIZE), dimensions=2)
    whole = np.array(vector(made()))[:2]
    assert cut == pytest.approx(whole / np.linalg.norm(whole))


def test_windows_are_averaged_by_their_tokens() -> None:
    """A text of several windows: the longer one weighs more."""
    encoding = spaced_encoding("torch")
    windows = [
        Window(encoding, {"last_hidden_state": np.full((length, WIDTH), value, np.float32)})
        for length, value in ((30, 1.0), (10, 5.0))
    ]
    task = made()
    answer = task.postprocess([RowOutputs(ENTRY, windows)], ENTRY, with_parameters(task))
    assert answer == [2, 2, 2, 2]


def test_prompts_go_before_texts(tmp_path: Path) -> None:
    """The request's own, one of the model's by name, else the model's default."""
    prompts: Any = {"prompts": {"query": "Q: ", "passage": "P: "}, "default_prompt_name": "passage"}
    task = modelled(tmp_path, ("Pooling", {}, {}), model=prompts)
    read = {
        name: task.rows(TextInput("Hi"), task.read_parameters(given))[0].text
        for name, given in {
            "none": {},
            "named": {"prompt_name": "query"},
            "own": {"prompt": "x "},
            "empty": {"prompt": "", "prompt_name": "query"},
        }.items()
    }
    assert read == {"none": "P: Hi", "named": "Q: Hi", "own": "x Hi", "empty": "Hi"}
    value = {"inputs": "Hi", "parameters": {"prompt_name": "qery"}}
    assert '(it has: "query", "passage")' in error_of(task, value).message


def test_a_models_lower_case_and_length_are_followed(tmp_path: Path) -> None:
    """What sentence-transformers saved for the first module."""
    settings: Any = {"max_seq_length": 77, "do_lower_case": True}
    task = modelled(tmp_path, ("Pooling", {}, {}), transformer=settings)
    assert task.max_length == 77
    assert task.rows(TextInput("Hi THERE"), task.read_parameters({}))[0].text == "hi there"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("fp16", [0.475, 0.2375, 0.475, 0.7012]),
        ("int8", [60, 30, 60, 89]),
        ("uint8", [188, 158, 188, 217]),
        ("binary", [112]),
        ("ubinary", [240]),
    ],
)
def test_types_of_numbers(kind: str, expected: list[float]) -> None:
    """Rounded vectors of length 1: half precision, one byte or one bit a number."""
    given = {"embedding_dtype": kind, "normalize": True}
    found = vector(made(), states=STATES - [0, 0, 0, -0.214], **given)
    assert found == pytest.approx(expected, abs=1e-3)
    encoded = vector(made(), **given, encoding_format="base64")
    dtype = {"fp16": "<f2", "int8": "i1", "binary": "i1"}.get(kind, "u1")
    numbers: Any = np.frombuffer(base64.b64decode(encoded), np.dtype(dtype))
    assert numbers.tolist() == pytest.approx(vector(made(), **given), abs=1e-3)


def test_base64_is_of_float32() -> None:
    """As OpenAI's clients read it: four bytes a number, the lowest first."""
    numbers = np.frombuffer(base64.b64decode(vector(made(), encoding_format="base64")), "<f4")
    assert numbers.tolist() == vector(made())


def test_ranges_of_the_models_folder_are_used(tmp_path: Path) -> None:
    """255 steps from the least to the most of each number, as sentence-transformers has them."""
    ranges = {"min": [0, 0, 0, 0], "max": [2, 1, 1, 4]}
    (tmp_path / "embedding_ranges.json").write_text(json.dumps(ranges))
    assert vector(made(tmp_path), embedding_dtype="uint8") == [191, 191, 255, 127]


@pytest.mark.parametrize(
    ("content", "problem"),
    [("{", "cannot be read"), ('{"min": [0]}', "`max`"), ('{"min": [1], "max": [0]}', "no least")],
)
def test_wrong_ranges_do_not_load(content: str, problem: str, tmp_path: Path) -> None:
    """A broken file is told when the model loads."""
    (tmp_path / "embedding_ranges.json").write_text(content)
    with pytest.raises(LoadError, match=problem):
        made(tmp_path)


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"dimensions": 5}, "'dimensions' must be a whole number from 1 to 4"),
        ({"dimensions": 0}, "'dimensions' must be a whole number from 1 on, not 0"),
        ({"pooling": "sum"}, '"mean_sqrt_len" or "weightedmean", not "sum"'),
        ({"encoding_format": "hex"}, '\'encoding_format\' must be "base64" or "float"'),
        ({"embedding_dtype": "int4"}, "'embedding_dtype' must be"),
        ({"embedding_dtype": "int8"}, '"normalize": true'),
        ({"normalize": "yes"}, "'normalize' must be true or false"),
        ({"prompt_name": "query"}, "it has: none"),
        ({"truncation_direction": "up"}, "'truncation_direction' must be"),
        ({"top_k": 3}, "unknown parameters top_k"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], problem: str) -> None:
    """The error names the parameter, what it was and what is allowed."""
    assert problem in error_of(made(), {"inputs": "a", "parameters": parameters}).message


def test_pairs_are_refused() -> None:
    """A vector is of one text."""
    assert "'text_pair'" in error_of(made(), {"text": "a", "text_pair": "b"}).message


def test_other_servers_names_are_understood() -> None:
    """What clients put beside the input, and `truncate` for `truncation`."""
    given = {"inputs": "a", "normalize": True, "truncate": True, "truncation_direction": "Left"}
    inputs = made().parse(given)
    rule = made().window_rule(inputs.parameters)
    assert (rule.truncation, rule.side) == ("cut", "left")
    assert made().parse({"inputs": "a", "truncate": False}).parameters.truncation == "refuse"
    assert "'truncate'" not in error_of(made(), {"inputs": "a", "dimensions": "x"}).message


@pytest.mark.parametrize(
    ("modules", "problem"),
    [
        ([("SpladePooling", {}, {})], "SpladePooling"),
        ([("Dense", {}, dense_weights(4, 2)), ("Pooling", {}, {})], "Dense before Pooling"),
        ([("Pooling", {}, {}), ("Dense", {}, {})], "no model.safetensors"),
        ([("Pooling", {"pooling_mode": "sum"}, {})], "'sum'"),
        (
            [
                ("Pooling", {}, {}),
                ("Dense", {"activation_function": "my.Own"}, dense_weights(4, 2)),
            ],
            "activation 'my.Own'",
        ),
    ],
)
def test_modules_that_cannot_run_do_not_load(
    modules: list[Any], problem: str, tmp_path: Path
) -> None:
    """Nothing is left out silently: another vector would come out."""
    with pytest.raises(LoadError, match=problem):
        modelled(tmp_path, *modules)


def test_modules_outside_of_the_folder_do_not_load(tmp_path: Path) -> None:
    """A model's list of modules may not name files elsewhere."""
    add_modules(tmp_path, [("Pooling", {}, {})])
    listed = json.loads((tmp_path / "modules.json").read_text())
    listed[1]["path"] = "../elsewhere"
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(LoadError, match="outside"):
        made(tmp_path)


def test_numbers_are_written_short() -> None:
    """As few digits as give the same float32 back, whatever its size."""
    draw = np.random.default_rng(0)
    array = (draw.normal(size=3000) * 10.0 ** draw.integers(-9, 9, 3000)).astype(np.float32)
    limits: Any = np.finfo(np.float32)
    array[:4] = np.array([0, -0.0, limits.max, limits.tiny], dtype=np.float32)
    found = short_numbers(array)
    assert np.array_equal(np.array(found, dtype=np.float32), array)
    # numpy writes a float32 with the fewest digits that there are
    assert sum(one == float(str(other)) for one, other in zip(found, array, strict=True)) > 2990
