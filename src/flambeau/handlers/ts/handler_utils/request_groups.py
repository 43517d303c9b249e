"""A batch whose requests do not all ask for the same thing, taken apart and put together again.

TorchServe reads the flag of a batch's first request and does the same for all of them.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flambeau.handlers.ts.utils.util import PredictionException

__all__ = ["answer_batch", "one_by_one", "requests_of"]

_logger = logging.getLogger(__name__)

Predict = Callable[[Any], Any]


def answer_batch(handler: Any, data: Any, context: Any, predict: Predict) -> Any:
    """The answers of a BaseHandler: predictions by `predict`, descriptions and explanations.

    Requests for predictions stay together; each request for an explanation runs alone, since its
    target is its own. An explanation or description that fails is that request's error.
    """
    groups = _groups(data, context)
    if len(groups) == 1:
        return _answer(handler, data, predict)
    answers: list[Any] = [None] * len(data)
    for indices in groups:
        with requests_of(context, indices):
            try:
                results = _answer(handler, [data[index] for index in indices], predict)
            except PredictionException as error:
                results = [error] * len(indices)
            except Exception as error:
                if isinstance(error, MemoryError) or "CUDA" in str(error):
                    raise  # the process is in trouble, not one request
                results = [_failure(error)] * len(indices)
        if not isinstance(results, list) or len(results) != len(indices):
            results = [PredictionException("number of batch response mismatched", 503)]
            results *= len(indices)
        for index, result in zip(indices, results, strict=True):
            answers[index] = result
    return answers


def one_by_one(data: Sequence[Any], context: Any, call: Callable[[Any], Any]) -> list[Any] | None:
    """What `call([row])[0]` gives for each row, or its error; None if rows are not requests."""
    if len(data) < 2 or not _rows_are_requests(data, context):
        return None
    answers: list[Any] = []
    for index, row in enumerate(data):
        with requests_of(context, [index]):
            try:
                answers.extend(call([row]))
            except PredictionException as error:
                answers.append(error)
            except Exception as error:  # noqa: BLE001 - it is the answer to this row
                answers.append(_failure(error))
    return answers if len(answers) == len(data) else None


@contextmanager
def requests_of(context: Any, indices: Sequence[int]) -> Iterator[None]:
    """Within it, the context shows only these requests of the batch, numbered from 0."""
    ids, processors = context.request_ids, context.request_processor
    context.request_ids = {new: ids[old] for new, old in enumerate(indices)}
    context.request_processor = [processors[old] for old in indices]
    context.metrics.set_request_ids(context.request_ids)
    try:
        yield
    finally:
        context.request_ids, context.request_processor = ids, processors
        context.metrics.set_request_ids(ids)


def _answer(handler: Any, data: Any, predict: Predict) -> Any:
    """One group's answers, by the flags of its first request."""
    if os.environ.get("ENABLE_TORCH_PROFILER"):  # noqa: TID251 - BaseHandler's own switch
        if handler.manifest is None:
            handler.manifest = handler.context.manifest
        return handler._infer_with_profiler(data)[0]  # noqa: SLF001 - BaseHandler's hook
    if handler._is_describe():  # noqa: SLF001 - likewise
        return [handler.describe_handle()]
    return predict(data)


def _groups(data: Any, context: Any) -> list[list[int]]:
    """The indices of the rows that can run together; one group where rows are not requests."""
    if not _rows_are_requests(data, context):
        return [[]]
    alone: list[list[int]] = []
    together: list[int] = []
    for index in range(len(data)):
        flags = [context.get_request_header(index, name) for name in ("describe", "explain")]
        if "True" in flags:
            alone.append([index])
        else:
            together.append(index)
    return [*([together] if together else []), *alone]


def _rows_are_requests(data: Any, context: Any) -> bool:
    """Whether each row belongs to one request: an envelope may have joined or split them."""
    processors = getattr(context, "request_processor", None)
    return isinstance(data, list) and isinstance(processors, list) and len(processors) == len(data)


def _failure(error: Exception) -> PredictionException:
    """The error of one request, as the server words it; its text goes to the log."""
    _logger.warning("The handler failed on one request of a batch.", exc_info=error)
    return PredictionException("Prediction failed", 503)
