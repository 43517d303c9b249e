"""MicroBatching runs a batch in pieces (contract.md section 9.7)."""

from typing import Any

import pytest

from flambeau.handlers.ts.handler_utils.micro_batching import MicroBatching

Load = Any  # the fixture of conftest.py

HANDLER = """
    from ts.handler_utils.micro_batching import MicroBatching
    from ts.torch_handler.base_handler import BaseHandler
    class Mine(BaseHandler):
        def __init__(self):
            super().__init__()
            self.handle = MicroBatching(self, micro_batch_size=2)
        def initialize(self, context):
            self.handle.parallelism = {"preprocess": 2, "inference": 3}
        def preprocess(self, rows):
            return [int(row["body"]) for row in rows]
        def inference(self, numbers):
            return [(number, len(numbers), self.handle.get_micro_batch_idx()) for number in numbers]
        def postprocess(self, results):
            return [1 // number and f"{number} {size} {index}" for number, size, index in results]
"""


def test_rows_keep_their_order(load: Load) -> None:
    """Five rows run as three micro batches and come back in order."""
    served = load(HANDLER.replace("1 // number and ", ""))
    assert served.answer(*"12345") == [b"1 2 0", b"2 2 0", b"3 2 1", b"4 2 1", b"5 1 2"]
    served.runner.context.metrics.drain()


def test_step_that_raises_fails_the_batch(load: Load) -> None:
    """An exception in a thread reaches the batch, and the next batch is answered."""
    served = load(HANDLER)
    assert [error.message for error in served.errors(*"101")] == ["Prediction failed"] * 3
    assert served.answer("1") == [b"1 1 0"]


def test_wrong_settings() -> None:
    """Sizes below 1 and unknown steps are refused."""
    with pytest.raises(ValueError, match="micro_batch_size"):
        MicroBatching(object(), 0)
    with pytest.raises(ValueError, match="unknown step 'predict'"):
        MicroBatching(object(), 1, {"predict": 2})
    with pytest.raises(ValueError, match="inference needs at least 1 thread"):
        MicroBatching(object(), 1, {"inference": 0})


def test_threads_end_on_shutdown() -> None:
    """After shutdown no more rows are taken."""
    batching = MicroBatching(object())
    assert batching.parallelism == {"preprocess": 1, "inference": 1, "postprocess": 1}
    batching.shutdown()
    with pytest.raises(RuntimeError):
        batching.handle([1])
