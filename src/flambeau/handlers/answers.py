"""The answers to a batch on their way out: chunks with the status and headers that were chosen."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flambeau.errors import PredictionError
from flambeau.handlers.failures import batch_failure
from flambeau.handlers.results import Body, clean_text, encode_item
from flambeau.handlers.ts.context import RequestProcessor
from flambeau.types import Chunk, InferenceRequest

__all__ = ["Abandoned", "Answers", "Emit"]

_logger = logging.getLogger(__name__)

Emit = Callable[[int, Chunk | PredictionError], None]
"""Takes one chunk of row `index`'s answer, or the row's error. Raises `Abandoned`."""

STREAM_NEXT = "ts_stream_next"
"""The header by which TorchServe's worker says that more follows; it never leaves ours."""


class Abandoned(BaseException):
    """Every client of the running batch has left: the handler need not go on.

    No `Exception`, as asyncio's CancelledError is none: handlers must not take it for a failure.
    """


class Answers:
    """The answers to one batch: what each row was sent, and what it may still get.

    `processors` hold each row's request headers, and take its status and response headers.
    """

    def __init__(self, items: list[InferenceRequest], emit: Emit) -> None:
        self.processors = [RequestProcessor(_visible_headers(item)) for item in items]
        self._emit = emit
        self._index_of = {item.id: index for index, item in enumerate(items)}
        self._open = set(range(len(items)))

    def send_intermediate(
        self, ret: Sequence[object], request_ids: Mapping[int, str] | None
    ) -> None:
        """One more chunk for each row that `ret` has an entry for."""
        ids = request_ids or dict(enumerate(self._index_of))
        if len(ret) != len(ids):
            raise ValueError(f"{len(ids)} chunks are due, one per request, not {len(ret)}")
        for position, item in enumerate(ret):
            self._send(self._index_of[ids[position]], encode_item(item), last=False)

    def send_part(self, index: int, body: Body) -> None:
        """One more chunk for one row."""
        self._send(index, body, last=False)

    def finish(self, bodies: list[Body | PredictionError]) -> None:
        """The last chunk, or the error, of every row."""
        for index, body in enumerate(bodies):
            self._send(index, body, last=True)

    def finish_one(self, index: int, body: Body | PredictionError) -> None:
        """The last chunk, or the error, of one row."""
        self._send(index, body, last=True)

    def advance(self, bodies: list[Body | PredictionError], goes_on: Callable[[int], bool]) -> None:
        """One iteration's chunk of every row; the last one where the row does not go on (5.12)."""
        for index, body in enumerate(bodies):
            try:
                last = not goes_on(index) and not self._says_more(index)
            except Exception as error:  # users' code; its row only
                _logger.warning("The stopping criterion of row %d failed.", index, exc_info=error)
                self._send(index, batch_failure(error), last=True)
            else:
                self._send(index, body, last=last)

    def fail(self, error: PredictionError) -> None:
        """The same error for every row that is not finished."""
        for index in sorted(self._open):
            self._send(index, error, last=True)

    def _says_more(self, index: int) -> bool:
        """Whether the handler itself has set the header that the stopping criterion stands for."""
        return self.processors[index].get_response_header(STREAM_NEXT) == "true"

    def _send(self, index: int, body: Body | PredictionError, *, last: bool) -> None:
        if index not in self._open:
            return  # it has failed before
        if last or isinstance(body, PredictionError):
            self._open.remove(index)
        if isinstance(body, PredictionError):
            self._emit(index, body)
        else:
            self._emit(index, _chunk(body, self.processors[index], last))


def _chunk(body: Body, processor: RequestProcessor, last: bool) -> Chunk:
    """Bytes with the status, the headers and the content type that the handler chose."""
    response_headers = processor.get_response_headers()
    headers = {clean_text(key): clean_text(value) for key, value in response_headers.items()}
    content_type = body.content_type
    headers.pop(STREAM_NEXT, None)
    for key in [key for key in headers if key.lower() == "content-type"]:
        content_type = headers.pop(key)
    return Chunk(
        body.data,
        last,
        status=processor.get_response_status_code() if processor.status_was_set else 0,
        reason=clean_text(processor.get_response_status_phrase() or ""),
        content_type=content_type,
        headers=headers,
    )


def _visible_headers(item: InferenceRequest) -> dict[str, Any]:
    """Each field's content type under its name, and over that the request's headers (5.2)."""
    fields = {field.name: {"content-type": field.content_type} for field in item.fields}
    return {**fields, **item.headers}
