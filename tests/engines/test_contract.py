"""What every engine promises, on tiny models of several architectures."""

import msgspec
import numpy as np
import pytest

from flambeau import engines
from flambeau.engines.base import Engine, Outputs, TokenSequence
from flambeau.testing.models import MAX_POSITIONS
from flambeau.types import Precision
from tests.engines.forms import OUTPUTS, Case, Forms

TOLERANCE = 1e-4
CASES = [
    Case("bert", "text-classification"),
    Case("roberta", "token-classification"),
    Case("distilbert", "question-answering"),
    Case("roberta", "embeddings"),
]
LENGTHS = (5, 1, MAX_POSITIONS, 17, 5, 2, 64, 30, 31, MAX_POSITIONS, 3, 16)


@pytest.fixture(params=engines.available())
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(params=["fp32", "int8"])
def precision(request: pytest.FixtureRequest, name: str) -> Precision:
    chosen: Precision = request.param
    if chosen == "int8" and name == "torchscript":
        pytest.skip("a traced model has the precision that it was traced with")
    return chosen


@pytest.fixture(params=CASES, ids=lambda case: f"{case.architecture}-{case.task}")
def case(request: pytest.FixtureRequest) -> Case:
    chosen: Case = request.param
    return chosen


def start(forms: Forms, name: str, case: Case, precision: Precision = "fp32") -> Engine:
    source = msgspec.structs.replace(forms.source(name, case), precision=precision)
    engine = engines.load(name)(source)
    engine.begin(1)
    return engine


def sequences() -> list[TokenSequence]:
    """Rows of all lengths in no order, each with tokens of its own."""
    draw = np.random.default_rng(0)
    rows = [draw.integers(5, 90, length).tolist() for length in LENGTHS]
    return [TokenSequence(row, [0] * len(row)) for row in rows]


def gap(one: Outputs, other: Outputs) -> float:
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def test_a_text_s_answer_does_not_depend_on_its_company(
    forms: Forms, name: str, case: Case, precision: Precision
) -> None:
    """Alone or among others of any length, and in the order given: the same outputs."""
    if precision == "int8" and name == "torch":
        pytest.skip("the tiny models' layers are too narrow to be quantised")
    engine = start(forms, name, case, precision)
    rows = sequences()
    together = engine.forward(rows)
    alone = [engine.forward([row])[0] for row in rows]
    assert max(map(gap, together, alone)) < TOLERANCE
    assert gap(together[0], together[4]) > TOLERANCE, "different rows have different outputs"


def test_outputs_have_no_padding(forms: Forms, name: str, case: Case) -> None:
    """One value per token of the row where the task has them, for one token and for the longest."""
    outputs = start(forms, name, case).forward(sequences())
    for length, output in zip(LENGTHS, outputs, strict=True):
        assert set(output) == set(OUTPUTS[case.task])
        for array in output.values():
            assert array.dtype == np.float32
            assert np.isfinite(array).all()
            tokens = array.shape[0] if case.task != "text-classification" else length
            assert tokens == length


def test_all_engines_give_the_same_scores(forms: Forms, name: str, case: Case) -> None:
    """In float32, whatever runs the model: scores equal those of Transformers' own class."""
    expected = start(forms, "torch", case).forward(sequences())
    found = start(forms, name, case).forward(sequences())
    assert max(map(gap, expected, found)) < TOLERANCE


def test_no_texts_have_no_outputs(forms: Forms, name: str, case: Case) -> None:
    """An empty batch is answered by an empty list."""
    assert start(forms, name, case).forward([]) == []
