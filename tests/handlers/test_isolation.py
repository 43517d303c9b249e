"""One bad input costs only itself: batches that raise, memory that runs out, and what comes after."""

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from flambeau.engines.base import RowLimits, TokenSequence
from flambeau.errors import ErrorKind, PredictionError
from flambeau.handlers.failures import breaks_device, lacks_memory
from flambeau.handlers.isolation import CALM_PASSES, LEAST_TOKENS, Headroom, run_isolated
from flambeau.testing.native import ServedNative
from tests.handlers.native_models import Models, models, one_thread

__all__ = ["models", "one_thread"]  # fixtures


@pytest.fixture(autouse=True, scope="module")
def frozen() -> Iterator[None]:
    """As in a worker: what is loaded is no concern of a collection."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


HUGE = 2**46
"""More than any machine has, in bytes."""


def no_memory_for_torch() -> None:
    torch.empty(HUGE)


def no_memory_on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def no_memory_for_cublas() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def no_memory_for_numpy() -> None:
    np.empty(HUGE)


def no_memory_for_onnx() -> None:
    """A graph that repeats one number as often as it is told."""
    size = helper.make_tensor_value_info("size", onnx.TensorProto.INT64, [1])
    one = helper.make_tensor_value_info("one", onnx.TensorProto.FLOAT, [1])
    many = helper.make_tensor_value_info("many", onnx.TensorProto.FLOAT, [None])
    graph = helper.make_graph(
        [helper.make_node("Expand", ["one", "size"], ["many"])], "expand", [one, size], [many]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    session.run(None, {"one": np.ones(1, np.float32), "size": np.array([HUGE])})


def no_memory_for_openvino() -> None:
    """What it says where the system gives no memory; here the system promises any amount."""
    raise RuntimeError(
        "Exception from src/inference/src/cpp/infer_request.cpp:224:\n[CPU] Broadcast node Check"
        " 'ptr' failed at src/plugins/intel_cpu/src/cpu_memory.cpp:257:\nFailed to allocate"
        " 4294967296 bytes of memory"
    )


SHORTAGES = [
    no_memory_for_torch,
    no_memory_on_a_gpu,
    no_memory_for_cublas,
    no_memory_for_numpy,
    no_memory_for_onnx,
    no_memory_for_openvino,
]


@pytest.mark.parametrize("fail", SHORTAGES)
def test_every_framework_s_lack_of_memory_is_told_apart(fail: Callable[[], None]) -> None:
    """Whichever exception says it: the client hears that it should send less, and what fits runs."""
    short: list[int] = []

    def run(items: Sequence[int]) -> list[int]:
        if 3 in items:
            fail()
        return [item * 10 for item in items]

    results = run_isolated(run, [1, 2, 3, 4], lambda items: short.append(len(items)))
    assert [each for each in results if not isinstance(each, PredictionError)] == [10, 20, 40]
    error = results[2]
    assert isinstance(error, PredictionError)
    assert error.kind is ErrorKind.OUT_OF_MEMORY
    assert short == [4, 2, 1], "each size that did not fit"
    with pytest.raises(Exception) as told:  # noqa: PT011  # of any class
        fail()
    assert lacks_memory(told.value)
    assert not breaks_device(told.value)


@pytest.mark.parametrize(
    "error",
    [ValueError("bad allocation of seats"), RuntimeError("index out of range"), KeyError("memory")],
)
def test_other_errors_are_no_lack_of_memory(error: Exception) -> None:
    """Only what a framework says counts, and only about memory."""
    assert not lacks_memory(error)


def test_only_the_guilty_item_of_a_failing_forward_fails() -> None:
    """A batch that raises is halved until the items that raise stand alone."""
    calls: list[list[int]] = []

    def run(items: Sequence[int]) -> list[int]:
        calls.append(list(items))
        if 5 in items:
            raise RuntimeError("the secret text of a user")
        return [item * 10 for item in items]

    results = run_isolated(run, list(range(8)))
    good = [result for result in results if not isinstance(result, PredictionError)]
    assert good == [0, 10, 20, 30, 40, 60, 70]
    error = results[5]
    assert isinstance(error, PredictionError)
    assert error.kind is ErrorKind.HANDLER_FAILED
    assert "secret" not in error.message
    assert len(calls) == 7


def test_a_lack_that_passes_costs_nobody_an_answer() -> None:
    """An item that is alone is tried once more, after memory was freed; not for ever."""
    lacks = iter([True, False, True, True, True])

    def run(items: Sequence[int]) -> list[int]:
        if next(lacks):
            raise MemoryError
        return list(items)

    assert run_isolated(run, [7]) == [7]
    (error,) = run_isolated(run, [7])
    assert isinstance(error, PredictionError)
    assert list(lacks) == [True], "tried twice"


def test_nothing_of_a_failed_pass_is_held_while_it_is_tried_again() -> None:
    """The arrays of the pass that did not fit are gone before its halves run."""
    alive: list[int] = []
    held = 0

    class Array:
        def __init__(self) -> None:
            nonlocal held
            held += 1

        def __del__(self) -> None:
            nonlocal held
            held -= 1

    def run(items: Sequence[int]) -> list[int]:
        alive.append(held)
        array = Array()
        if len(items) > 1:
            raise MemoryError
        del array
        return list(items)

    assert run_isolated(run, [1, 2, 3, 4]) == [1, 2, 3, 4]
    assert set(alive) == {0}


def test_passes_are_smaller_after_a_lack_of_memory_and_grow_again() -> None:
    """Half of what did not fit; twice as much after enough passes; then as the engine likes."""
    headroom = Headroom()
    limits = RowLimits(max_tokens=512, max_padding=0.1)
    assert headroom.limits(limits) is limits
    headroom.shortage(400, rows=10)
    small = headroom.limits(limits)
    assert small is not None
    assert (small.max_tokens, small.max_padding) == (200, 0.1)
    headroom.shortage(300, rows=1)
    assert headroom.limits(limits) == small, "a text that does not fit alone tells of no other"
    for _ in range(CALM_PASSES + 1):
        headroom.passed()
    grown = headroom.limits(limits)
    assert grown is not None
    assert grown.max_tokens == 400
    for _ in range(CALM_PASSES + 1):
        headroom.passed()
    assert headroom.limits(limits) is limits
    headroom.shortage(4, rows=2)
    least = headroom.limits(limits)
    assert least is not None
    assert least.max_tokens == LEAST_TOKENS
    assert headroom.limits(None) is None


class Scarce:
    """An engine's `forward` for which more than so many tokens are too many, as torch says it."""

    def __init__(self, served: ServedNative, tokens: int) -> None:
        self.passes: list[int] = []
        self.tokens = tokens
        engine: Any = served.handler._model.engine
        self._forward = engine.forward
        engine.forward = self

    def __call__(self, rows: Sequence[TokenSequence]) -> Any:
        total = sum(map(len, rows))
        self.passes.append(total)
        if total > self.tokens:
            torch.empty(HUGE)
        return self._forward(rows)


def test_a_model_short_of_memory_goes_on_answering(
    models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch that is too large is answered in parts, and the next one is not tried as a whole."""
    served = ServedNative(models.get("text-classification"))
    texts = [f"the movie was great {'and nice ' * number}" for number in range(7)]
    expected = served(*texts)
    scarce = Scarce(served, tokens=60)
    with caplog.at_level(logging.WARNING, "flambeau"):
        found = served(*texts)
    assert not [each for each in found if isinstance(each, PredictionError)]
    for one, other in zip(expected, found, strict=True):
        assert [row["label"] for row in one] == [row["label"] for row in other]
    assert "did not fit into memory" in caplog.text
    assert max(scarce.passes) > 60
    scarce.passes.clear()
    served(*texts)
    assert max(scarce.passes) <= 60, "no pass is tried that did not fit before"
    long, short = served("the movie " * 60, "great")
    assert isinstance(long, PredictionError)
    assert long.kind is ErrorKind.OUT_OF_MEMORY
    assert short[0]["score"] > 0


def test_a_text_that_the_tokenizer_fails_on_has_an_error_of_its_own(
    models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    """A panic in it, too, which is no Exception; the texts beside it are answered."""
    secret = "zebra"
    served = ServedNative(models.get("text-classification"))
    tokenizer: Any = served.handler._model.reader
    encode = tokenizer.encode

    class Panic(BaseException):
        """As pyo3 raises it."""

    def panics(rows: Sequence[Any], rules: Any = ()) -> Any:
        for row in rows:
            if row.text == secret:
                raise Panic(row.text)
        return encode(rows, rules)

    tokenizer.encode = panics
    good, bad, other = served("horse", secret, "movie")
    assert good[0]["score"] > 0
    assert other[0]["score"] > 0
    assert isinstance(bad, PredictionError)
    assert bad.message == "The input could not be prepared (Panic)."
    assert secret not in caplog.text
