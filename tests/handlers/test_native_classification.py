"""Properties of the classification tasks, asked of tiny real models through the handler."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from flambeau.errors import PredictionError
from flambeau.handlers.native_jobs import TOKENS_HEADER, TRUNCATED_HEADER
from flambeau.testing.models import MAX_POSITIONS, Architecture, tiny_model
from flambeau.testing.native import ServedNative
from flambeau.types import TaskName
from tests.handlers.native_models import LABELS, one_thread

__all__ = ["one_thread"]  # a fixture

NLI = ["contradiction", "neutral", "entailment"]
SEED = 3
"""Of the weights: with these, known words and unknown ones are among what is found."""
READS = 20
"""Tokens that the models of `Small` read at once."""
ASKED = {
    "zero-shot-classification": {
        "candidate_labels": ["light", "a puppet"],
        "hypothesis_template": "the {}",
    }
}
TASKS: list[TaskName] = ["text-classification", "token-classification", "zero-shot-classification"]
quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)

words = st.sampled_from(
    [
        "Ada",
        "Lovelace",
        "London",
        "puppet",
        "zebra",
        "Zoë",
        "Montréal",
        "東京",
        "都",
        "😀",
        "👩‍👩‍👧",
        "x,y",
        "e\u0301",
    ]
)
gaps = st.sampled_from([" ", " ", " ", "  ", "\n", "\t ", "", "\u00a0"])


def some(least: int, most: int) -> st.SearchStrategy[str]:
    """Texts of so many words."""
    parts = st.lists(st.tuples(gaps, words), min_size=least, max_size=most)
    return parts.map(lambda pairs: "".join(gap + word for gap, word in pairs))


texts = some(1, 40)


class Served:
    """Models behind the handler, each made once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made: dict[tuple[object, ...], ServedNative] = {}

    def get(
        self, task: TaskName, architecture: Architecture = "bert", reads: int = MAX_POSITIONS
    ) -> ServedNative:
        """A model that sees each token alone, for token classification; else one like any other."""
        key = (task, architecture, reads)
        if key not in self._made:
            folder = self._root / f"{task}-{architecture}"
            if not folder.is_dir():
                labels = NLI if task == "zero-shot-classification" else LABELS
                tiny_model(folder, task, architecture, labels=labels, seed=SEED)
                if task == "token-classification":
                    _blind(folder / "model.safetensors")
            self._made[key] = ServedNative(folder, task=task, max_length=reads)
        return self._made[key]


def _blind(weights: Path) -> None:
    """Take places and neighbours from a model: what it says of a token depends on that alone."""
    tensors = load_file(weights)
    for name, tensor in tensors.items():
        if "attention.output.dense" in name or "position_embeddings" in name:
            tensors[name] = np.zeros_like(tensor)
    save_file(tensors, weights, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(tmp_path_factory.mktemp("classification"))


def ask(model: ServedNative, inputs: object, **parameters: object) -> Any:
    """One request in the pipelines' form."""
    (found,) = model(json.dumps({"inputs": inputs, "parameters": parameters}).encode())
    return found


def near(value: Any) -> Any:
    """An answer whose scores may differ by what batches change in the last digits."""
    if isinstance(value, float):
        return pytest.approx(value, abs=1e-5)
    if isinstance(value, dict):
        return {key: near(item) for key, item in value.items()}
    return [near(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_offsets_are_of_the_users_string(served: Served, architecture: Architecture) -> None:
    """Whatever a text is made of, an entity's word is the text between its offsets."""
    model = served.get("token-classification", architecture)
    found: list[str] = []

    @quick
    @given(texts)
    def check(text: str) -> None:
        (entities,) = model(text)
        found.extend(entity["word"] for entity in entities)
        for entity in entities:
            word = text[entity["start"] : entity["end"]]
            assert word == entity["word"] == word.strip() != ""
        behind = 0
        for token in ask(model, text, ignore_labels=[]):
            start, end = token["start"], token["end"]
            assert behind <= end <= len(text)
            behind = end
            spelt = token["word"].removeprefix("##").removeprefix("Ġ")
            if spelt.isascii() and "Ċ" not in spelt:
                assert text[start:end].strip() == spelt

    check()
    assert any(word.isascii() for word in found)
    assert any(not word.isascii() for word in found)


@pytest.mark.parametrize("strategy", [None, "none", "simple", "first", "average", "max"])
@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_windows_lose_and_double_nothing(
    served: Served, architecture: Architecture, strategy: str | None
) -> None:
    """A model that looks at single tokens finds the same in windows as in one, whatever they share."""
    whole = served.get("token-classification", architecture, MAX_POSITIONS)
    small = served.get("token-classification", architecture, READS)
    parameters: dict[str, object] = {"details": True, "ignore_labels": []}
    if strategy:
        parameters["aggregation_strategy"] = strategy
    compared: list[int] = []

    @settings(quick, max_examples=12)
    @given(some(8, 20), st.integers(0, READS - 3), st.booleans())
    def check(text: str, stride: int, plain: bool) -> None:
        form = {"text": text} if plain else {"inputs": text}
        expected, found = (
            model(json.dumps({**form, "parameters": parameters | asked}).encode())[0]
            for model, asked in ((whole, {"truncation": "refuse"}), (small, {"stride": stride}))
        )
        if isinstance(expected, PredictionError):  # longer than the one window
            assert found["usage"]["windows"] > 1
        else:
            assert found["outputs"] == near(expected["outputs"])
            if found["usage"]["windows"] > 1 and len(found["outputs"]) > 1:
                compared.append(stride)

    check()
    assert len(set(compared)) > 3


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_is_its_singles(served: Served, task: TaskName) -> None:
    """Texts in one list, or requests in one batch, get what each gets alone."""
    model = served.get(task)
    parameters = ASKED.get(task, {})

    @settings(quick, max_examples=12)
    @given(st.lists(texts, min_size=1, max_size=6))
    def check(many: list[str]) -> None:
        many = [text if text.strip() else "a" for text in many]
        single = [ask(model, text, **parameters) for text in many]
        bodies = [json.dumps({"inputs": text, "parameters": parameters}) for text in many]
        assert model(*bodies) == near(single)
        listed = ask(model, many, **parameters)
        if task == "text-classification":  # whose answer to a text has a list around it
            single = [each[0] for each in single]
        assert listed == near(single)

    check()


@pytest.mark.parametrize("task", TASKS)
def test_what_is_reported_is_what_was_read(served: Served, task: TaskName) -> None:
    """Refused is what cutting cuts and windows read whole; where a text fits all three agree."""
    model = served.get(task, "bert", READS)
    parameters = ASKED.get(task, {})

    def read(text: str, truncation: str) -> Any:
        found = ask(model, text, details=True, truncation=truncation, **parameters)
        if isinstance(found, PredictionError):
            assert f"the model reads {READS}" in found.message
            return None
        usage = found["usage"]
        assert model.headers(0)[TOKENS_HEADER] == str(usage["tokens"])
        assert model.headers(0)[TRUNCATED_HEADER] == str(usage["truncated"]).lower()
        return found

    @quick
    @given(texts)
    def check(text: str) -> None:
        cut, window, refuse = (read(text, way) for way in ("cut", "window", "refuse"))
        rows = len(parameters.get("candidate_labels", ["one row"]))
        assert (refuse is None) == cut["usage"]["truncated"]
        assert cut["usage"]["windows"] == rows
        assert cut["usage"]["tokens"] <= READS * rows
        assert not window["usage"]["truncated"]
        if refuse is not None:
            assert refuse == cut == window
        else:
            assert window["usage"]["windows"] > rows
            assert window["usage"]["tokens"] > cut["usage"]["tokens"]
            assert window["usage"]["characters_used"] >= cut["usage"]["characters_used"]

    check()


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_words_are_tokenised_one_by_one(served: Served, architecture: Architecture) -> None:
    """Offsets of texts that are split already are those in the joined text; windows work, too."""
    model = served.get("token-classification", architecture)
    split = ["Ada", "東京", "x,y", "puppet", "😀"] * 4
    asked = {"aggregation_strategy": "first", "ignore_labels": [], "is_split_into_words": True}
    (found,) = ask(model, split, **asked, delimiter="  ")
    joined = "  ".join(split)
    begins = {joined.index(word) for word in split}
    assert {each["start"] for each in found} & begins
    assert found[0]["start"] == 0
    assert found[-1]["end"] == len(joined)
    assert [found] == ask(model, [split], **asked, delimiter="  ")
    small = served.get("token-classification", architecture, READS)
    assert ask(small, split, **asked, delimiter="  ", stride=4) == near([found])
    (cut,) = ask(small, split, **asked, delimiter="  ")
    assert cut[-1]["end"] < len(joined)


def test_pairs_of_a_request_are_one_list(served: Served) -> None:
    """Two texts with two labels are four rows; too many rows, or a long sentence, are refused."""
    model = served.get("zero-shot-classification", "bert", READS)
    found = ask(model, ["Ada", "London"], candidate_labels="light, puppet", details=True)
    assert [each["sequence"] for each in found["outputs"]] == ["Ada", "London"]
    assert [each["windows"] for each in found["usage"]] == [2, 2]
    many = ask(model, ["Ada"] * 5, candidate_labels=["a"] * 1000)
    assert "the request makes 5000 rows" in many.message
    long = ask(model, "Ada", candidate_labels=["light and " * 10])
    assert "the second text alone is longer than the 20 tokens" in long.message


def test_of_a_pair_only_the_text_is_cut(served: Served) -> None:
    """A label's sentence is read whole, whatever the text's length."""
    model = served.get("zero-shot-classification", "bert", READS)
    asked = {"candidate_labels": ["light", "a puppet by Ada"], "hypothesis_template": "the {}"}
    found = ask(model, "Ada " * 50, details=True, **asked)
    assert found["usage"]["truncated"]
    assert found["usage"]["tokens"] == 2 * READS
