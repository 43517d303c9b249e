"""Runs a batch in smaller pieces, each step of the handler in its own threads."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from flambeau.handlers.ts.handler_utils.request_groups import answer_batch

__all__ = ["MicroBatching"]

_STEPS = ("preprocess", "inference", "postprocess")


class MicroBatching:
    """A `handle(data, context)` that pipelines micro batches through a handler's three steps.

    Assigned in a handler's constructor: `self.handle = MicroBatching(self, micro_batch_size=4)`.
    While one micro batch is in `inference`, the next can be in `preprocess`. `parallelism` is the
    number of threads per step, 1 unless given. The order of the rows is kept, and an exception in
    a step fails the batch.
    """

    def __init__(
        self,
        parent_handler: Any,
        micro_batch_size: int = 1,
        parallelism: dict[str, int] | None = None,
    ) -> None:
        if micro_batch_size < 1:
            raise ValueError(f"micro_batch_size must be at least 1, not {micro_batch_size}.")
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self._parallelism: dict[str, int] = {}
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._local = threading.local()
        self.parallelism = {**dict.fromkeys(_STEPS, 1), **(parallelism or {})}

    @property
    def parallelism(self) -> dict[str, int]:
        """Threads per step. Assigning a dict changes the steps that it names."""
        return dict(self._parallelism)

    @parallelism.setter
    def parallelism(self, parallelism: dict[str, int]) -> None:
        for step, threads in parallelism.items():
            if step not in _STEPS:
                raise ValueError(f"unknown step {step!r}: choose from {', '.join(_STEPS)}.")
            if threads < 1:
                raise ValueError(f"{step} needs at least 1 thread, not {threads}.")
        for step, threads in parallelism.items():
            if self._parallelism.get(step) == threads:
                continue
            former = self._pools.get(step)
            self._pools[step] = ThreadPoolExecutor(threads, thread_name_prefix=step)
            self._parallelism[step] = threads
            if former is not None:
                former.shutdown()

    def shutdown(self) -> None:
        """End the threads. The object cannot be used afterwards."""
        for pool in self._pools.values():
            pool.shutdown()

    def get_micro_batch_idx(self) -> int | None:
        """The index of the micro batch that the calling thread works on; None in other threads."""
        return getattr(self._local, "index", None)

    def handle(self, data: list[Any]) -> list[Any]:
        """`data` through the three steps in micro batches; the rows' results in their order."""
        size = self.micro_batch_size
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        futures: list[Future[list[Any]]] = [Future() for _ in pieces]
        for index, (piece, future) in enumerate(zip(pieces, futures, strict=True)):
            self._pools[_STEPS[0]].submit(self._advance, 0, index, piece, future)
        return [row for future in futures for row in future.result()]

    def _advance(self, step: int, index: int, value: Any, future: Future[list[Any]]) -> None:
        """Run one step on one micro batch, then hand it to the next step's threads."""
        self._local.index = index
        try:
            value = getattr(self.handler, _STEPS[step])(value)
            if step + 1 == len(_STEPS):
                future.set_result(value)
            else:
                next_pool = self._pools[_STEPS[step + 1]]
                next_pool.submit(self._advance, step + 1, index, value, future)
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            future.set_exception(error)

    def __call__(self, data: list[Any], context: Any) -> Any:
        """The handler's entry point, in place of `BaseHandler.handle`."""
        start = time.monotonic()
        self.handler.context = context
        output = answer_batch(self.handler, data, context, self._predict)
        elapsed_ms = round((time.monotonic() - start) * 1000, 2)
        context.metrics.add_time("HandlerTime", elapsed_ms, None, "ms")
        return output

    def _predict(self, data: list[Any]) -> Any:
        """Predictions in micro batches, or explanations of the rows as they are."""
        if self.handler._is_explain():  # noqa: SLF001 - BaseHandler's hook
            return self.handler.explain_handle(self.handler.preprocess(data), data)
        return self.handle(data)
