"""What holds for all texts: company changes no answer, and the counts told are those of the texts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flambeau.errors import PredictionError
from flambeau.testing.models import MAX_POSITIONS, tiny_model
from flambeau.testing.native import ServedNative
from flambeau.types import TaskName
from tests.handlers.native_models import one_thread
from tests.sentences.models import write_model

__all__ = ["one_thread"]  # a fixture

WORDS = st.sampled_from(["Ada", "lived", "in", "London", "light", "torch", "é", "x9", "。", "😀"])
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=60).map(" ".join), min_size=1, max_size=5)
QUIET = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
CLOSE = 2e-5


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def served(root: Path) -> dict[TaskName, ServedNative]:
    """All four tasks; three of them share a model."""
    vectors = write_model("cls-dense", root / "vectors")
    pairs = tiny_model(root / "pairs", "text-ranking")
    tasks: list[TaskName] = ["embeddings", "sentence-similarity", "feature-extraction"]
    made = {task: ServedNative(vectors, task=task) for task in tasks}
    return {**made, "text-ranking": ServedNative(pairs, task="text-ranking")}


def near(one: Any, other: Any) -> bool:
    return bool(np.allclose(one, other, atol=CLOSE))


@QUIET
@given(texts=TEXTS)
def test_a_list_is_its_texts_one_by_one(
    served: dict[TaskName, ServedNative], texts: list[str]
) -> None:
    """Vectors and token states of N texts are those of each alone, in order."""
    for task in ("embeddings", "feature-extraction"):
        together = served[task]({"inputs": texts})[0]
        alone = [served[task]({"inputs": text})[0] for text in texts]
        assert len(together) == len(texts)
        assert all(near(one, other) for one, other in zip(together, alone, strict=True))


@QUIET
@given(texts=TEXTS)
def test_scores_do_not_depend_on_the_other_texts(
    served: dict[TaskName, ServedNative], texts: list[str]
) -> None:
    """Of a query and N texts, or a sentence and N others: each score is that of the text alone."""
    similar, ranking = served["sentence-similarity"], served["text-ranking"]
    asked = {"source_sentence": "the light", "sentences": texts}
    alone = [similar({"inputs": asked | {"sentences": [text]}})[0][0] for text in texts]
    assert near(similar({"inputs": asked})[0], alone)
    ranked = ranking({"query": "who", "texts": texts})[0]
    scores = [row["score"] for row in ranked]
    assert scores == sorted(scores, reverse=True)
    assert sorted(row["index"] for row in ranked) == list(range(len(texts)))
    pairs = [{"text": "who", "text_pair": texts[row["index"]]} for row in ranked]
    assert near(scores, [row["score"] for row in ranking({"inputs": pairs})[0]])


@QUIET
@given(count=st.integers(1, 300))
def test_counts_agree_with_what_was_read(served: dict[TaskName, ServedNative], count: int) -> None:
    """Cut, window and refuse tell one story: how many tokens there are, and which were read."""
    embeddings = served["embeddings"]
    text = " ".join(["light"] * count)
    total = count + 2 + 2  # special tokens, and the default prompt's two
    fits = total <= MAX_POSITIONS
    asked = [
        {"inputs": text, "parameters": {"details": True, "truncation": way}}
        for way in ("cut", "window", "refuse")
    ]
    cut, window, refused = embeddings(*asked)
    assert cut["usage"]["truncated"] is not fits
    assert cut["usage"]["tokens"] == min(total, MAX_POSITIONS)
    assert not window["usage"]["truncated"]
    assert window["usage"]["characters_used"] == len("question: " + text)
    assert (window["usage"]["windows"] == 1) is fits
    assert np.linalg.norm(window["outputs"]) == pytest.approx(1)
    if fits:
        assert near(refused["outputs"], cut["outputs"])
        assert near(refused["outputs"], window["outputs"])
    else:
        assert isinstance(refused, PredictionError)
        assert f"{total} tokens" in refused.message


def test_a_text_is_cut_where_the_request_says(served: dict[TaskName, ServedNative]) -> None:
    """`truncation_direction` left keeps a text's end."""
    texts = " ".join(["light"] * 300 + ["Paris"] * 300)
    end, begin, left, right = served["feature-extraction"](
        {"inputs": "Paris " * 126},
        {"inputs": "light " * 126},
        {"inputs": texts, "truncation_direction": "left"},
        {"inputs": texts, "truncation_direction": "right"},
    )
    assert near(left, end)
    assert near(right, begin)
    assert not near(left, right)


def test_equal_texts_are_computed_once(served: dict[TaskName, ServedNative]) -> None:
    """Ten times the same document costs one forward pass over one pair, and gives ten scores."""
    ranking = served["text-ranking"]
    computed: list[int] = []
    engine: Any = ranking.handler._model.engine
    hook = engine._model.register_forward_pre_hook(
        lambda _module, _args, given: computed.append(given["input_ids"].numel()), with_kwargs=True
    )
    [answer] = ranking({"query": "who", "texts": ["Ada lived in London"] * 10})
    hook.remove()
    assert len({row["score"] for row in answer}) == 1
    assert [row["index"] for row in answer] == list(range(10))
    assert computed == [8]  # [CLS] who [SEP] Ada lived in London [SEP]
