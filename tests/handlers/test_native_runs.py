"""Batches of the native handler run side by side: who shares a forward pass, and who is answered."""

import json
from typing import Any

import pytest

from flambeau.engines.base import TokenSequence
from flambeau.errors import PredictionError
from flambeau.handlers.native_runs import NativeRun, NativeRuns
from flambeau.handlers.ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from flambeau.testing.native import ServedNative
from flambeau.types import Chunk, Field, InferenceRequest
from tests.handlers.native_models import Models, models, one_thread

__all__ = ["models", "one_thread"]  # fixtures

LONG = "the light of the torch was great " * 12


class Worker:
    """A tiny model whose batches are opened, added and stepped by hand."""

    def __init__(self, models: Models, max_requests: int = 0) -> None:
        served = ServedNative(models.get("text-classification"))
        self.handler = served.handler
        self.context = served.context
        self.context.metrics = MetricsCacheYamlImpl(model_name="m")
        self.decode = True
        self.errors: list[BaseException] = []
        self.times: list[float] = []
        self.answered: list[str] = []
        self.bodies: dict[str, Any] = {}
        self.runs = NativeRuns(self.handler, self, max_requests)

    def add_times(self, context: object, milliseconds: float) -> None:
        self.times.append(milliseconds)

    def failed(self, error: BaseException, answers: Any, items: object) -> None:
        self.errors.append(error)
        answers.fail(PredictionError("Prediction failed"))

    def add(self, *requests: tuple[str, str], **headers: str) -> NativeRun:
        """Open and add a batch of (name, body)."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        items = [
            InferenceRequest(name, dict(named), [Field("body", "", body.encode())])
            for name, body in requests
        ]

        def emit(index: int, result: Chunk | PredictionError) -> None:
            self.answered.append(items[index].id)
            body = json.loads(result.body) if isinstance(result, Chunk) else result
            self.bodies[items[index].id] = body

        run = self.runs.open(items, emit)
        self.runs.add(run)
        return run

    def finish(self) -> int:
        """Step until nothing is open; returns the number of steps."""
        steps = 0
        while self.runs:
            self.runs.step()
            self.runs.finished()
            steps += 1
        return steps


def test_a_later_batch_joins_the_forward_passes_of_an_earlier_one(models: Models) -> None:
    """Texts of two batches fit into one pass, and run in one."""
    worker = Worker(models)
    worker.add(("a", "good"), ("b", "a movie"))
    worker.add(("c", "great"))
    assert worker.finish() == 1
    assert sorted(worker.answered) == ["a", "b", "c"]
    assert len(worker.handler.take_phases()) == 1
    assert len(worker.times) == 2, "each batch has its time"


def test_a_request_is_answered_when_its_last_text_is_done(models: Models) -> None:
    """With one request a pass, the short one does not wait for the long one."""
    worker = Worker(models, max_requests=1)
    run = worker.add(("long", LONG), ("short", "good"))
    worker.runs.step()
    assert worker.answered == ["short"]
    assert not run.over
    assert not worker.runs.finished()
    worker.runs.step()
    assert worker.answered == ["short", "long"]
    assert worker.runs.finished() == [run]


def test_a_long_text_is_overtaken_three_times_and_no_more(models: Models) -> None:
    """However many short ones come, a long one has its turn."""
    worker = Worker(models, max_requests=1)
    worker.add(("long", LONG))
    worker.add(*((f"short{number}", "good" + " a" * number) for number in range(6)))
    worker.finish()
    assert worker.answered.index("long") == 3


def test_equal_texts_run_once(models: Models) -> None:
    """Of five requests, three are the same: the model reads three texts, and all are answered."""
    worker = Worker(models)
    engine: Any = worker.handler._model.engine
    forward = engine.forward
    seen: list[int] = []

    def counted(rows: list[TokenSequence]) -> object:
        seen.append(len(rows))
        return forward(rows)

    engine.forward = counted
    worker.add(("a", "good"), ("b", "good"), ("c", "a movie"), ("d", "good"), ("e", "great"))
    worker.finish()
    assert seen == [3]
    assert worker.bodies["a"] == worker.bodies["b"] == worker.bodies["d"] != worker.bodies["c"]


def test_a_list_is_as_many_jobs_as_it_has_texts(models: Models) -> None:
    """Its texts run with those of others, and its answer has them in order."""
    worker = Worker(models)
    texts = ["good", LONG, "a movie"]
    worker.add(("list", json.dumps(texts)), ("single", "good"))
    worker.finish()
    for place, text in enumerate(texts):
        alone = Worker(models)
        alone.add(("x", text))
        alone.finish()
        assert worker.bodies["list"][place][0]["label"] == alone.bodies["x"][0]["label"]
        assert worker.bodies["list"][place][0]["score"] == pytest.approx(
            alone.bodies["x"][0]["score"], abs=1e-5
        )


def test_single_requests_overtake_a_bulk_list_that_runs(models: Models) -> None:
    """Who comes while a long list is computed waits for one forward pass, not for the list."""
    worker = Worker(models, max_requests=1)
    bulk = [f"{LONG} {number}" for number in range(20)]
    worker.add(("bulk1", json.dumps(bulk)), ("bulk2", json.dumps(bulk[::-1])))
    worker.runs.step()
    worker.add(("single", "good"))
    worker.finish()
    assert worker.answered[0] == "single" or worker.answered[:2] == ["bulk1", "single"]
    assert worker.answered.index("single") < worker.answered.index("bulk2")


def test_the_lane_can_be_asked_for(models: Models) -> None:
    """A header makes a single request bulk work; a lane that there is not is an error."""
    worker = Worker(models, max_requests=1)
    worker.add(("later", "good"), x_flambeau_lane="bulk")
    worker.add(("first", LONG))
    worker.add(("wrong", "good"), x_flambeau_lane="fast")
    worker.finish()
    assert worker.answered == ["wrong", "first", "later"]
    assert "Allowed: interactive, bulk" in worker.bodies["wrong"].message


def test_a_withdrawn_batch_is_not_computed(models: Models) -> None:
    """Whose clients have left costs no forward pass."""
    worker = Worker(models)
    worker.add(("left", "good")).withdraw(())
    worker.finish()
    assert worker.answered == []
    assert worker.handler.take_phases() == []


def test_a_bad_row_is_answered_before_anything_is_computed(models: Models) -> None:
    """An error needs no forward pass."""
    worker = Worker(models)
    worker.add(("bad", ""), ("good", "good"))
    assert worker.answered == ["bad"]
    worker.finish()
    assert worker.answered == ["bad", "good"]
