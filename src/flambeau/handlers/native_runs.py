"""Batches of a native handler that run side by side, cut into micro-batches.

A batch is opened in one thread, which parses and tokenises it, while another thread computes. What
runs next is chosen anew after each forward pass among all that is open, so that a batch that comes
later joins the passes of those before it, and each request is answered when its last text is done.
"""

import copy
import logging
import time
from collections.abc import Collection, Iterator
from typing import Protocol

from flambeau.handlers.answers import Answers, Emit
from flambeau.handlers.failures import breaks_device
from flambeau.handlers.native import TransformersHandler
from flambeau.handlers.native_jobs import Job, Request
from flambeau.handlers.results import Body, encode_item
from flambeau.handlers.rows import to_row
from flambeau.handlers.ts.context import Context
from flambeau.types import InferenceRequest

__all__ = ["NativeRun", "NativeRuns"]

logger = logging.getLogger(__name__)


class _Host(Protocol):
    """The runner, as far as it is needed here."""

    context: Context
    decode: bool

    def add_times(self, context: Context, milliseconds: float) -> None:
        """Report a batch's time."""

    def failed(self, error: BaseException, answers: Answers, items: list[InferenceRequest]) -> None:
        """A batch ended with this."""


class NativeRun:
    """One batch: its rows as requests, and what was answered so far."""

    def __init__(self, items: list[InferenceRequest], context: Context, emit: Emit) -> None:
        self.items = items
        self.context = context
        self.answers = Answers(items, emit)
        self.requests: list[Request] = []
        self.results: dict[int, object] = {}
        self.failure: BaseException | None = None
        self._withdrawn: set[int] = set()
        self.tokens = 0
        self.started = time.monotonic()
        context.request_ids = {index: item.id for index, item in enumerate(items)}
        context.request_processor = self.answers.processors
        context.metrics.set_request_ids(context.request_ids)

    @property
    def over(self) -> bool:
        """Whether nothing of it is left to answer."""
        return not self.requests and not self.results

    def withdraw(self, indices: Collection[int]) -> None:
        """Nobody waits for these rows any more; none means all. May be called in any thread."""
        self._withdrawn |= set(indices) or set(range(len(self.items)))

    def follow(self, request: Request) -> None:
        """Let a request know whether it is waited for, and how parts of its answer are sent."""
        request.wanted = lambda: request.index not in self._withdrawn
        request.emit = lambda part: self._send_part(request, part)
        self.requests.append(request)

    def _send_part(self, request: Request, part: bytes) -> None:
        assert request.reply is not None
        if not request.reply.begun:
            request.set_headers(self.context)
        self.context.set_response_content_type(request.index, request.reply.content_type)
        self.answers.send_part(request.index, Body(part))

    def jobs(self) -> Iterator[Job]:
        """The texts that have not run."""
        for request in self.requests:
            yield from request.waiting()


class NativeRuns:
    """All open batches of a worker. `open` may be called in another thread than the rest.

    `device_lost`: a pass has left this process unusable while several requests were open. They are
    not answered: another worker has to tell the guilty one from the others.
    """

    def __init__(self, handler: TransformersHandler, host: _Host, max_requests: int) -> None:
        self._handler = handler
        self._host = host
        self._max_requests = max_requests
        self._running: list[NativeRun] = []
        self.device_lost = False

    def open(self, items: list[InferenceRequest], emit: Emit) -> NativeRun:
        """Parse and tokenise a batch. Emits nothing yet and never raises."""
        run = NativeRun(items, _context_of_its_own(self._host.context), emit)
        try:
            rows = [to_row(item, self._host.decode) for item in items]
            for index, read in enumerate(self._handler.read(rows, run.context)):
                if isinstance(read, Request) and read.error is None:
                    run.follow(read)
                else:
                    run.results[index] = read.error if isinstance(read, Request) else read
        except BaseException as error:  # noqa: BLE001  # a panic of the tokenizer's is no Exception
            run.failure = error
        return run

    def add(self, run: NativeRun) -> None:
        """Let an opened batch run; what needs no computing is answered now."""
        self._running.append(run)
        if run.failure is not None:
            run.requests, run.results = [], {}
            self._host.failed(run.failure, run.answers, run.items)
        for index, result in run.results.items():
            run.answers.finish_one(index, encode_item(result))
        run.results = {}

    def step(self) -> None:
        """Run one micro-batch of what is open, and answer the requests that it completes."""
        for run in self._running:
            run.requests = [request for request in run.requests if request.wanted()]
        waiting = [job for run in self._running for job in run.jobs()]
        try:
            self._handler.step(waiting, self._max_requests)
        except Exception as error:  # noqa: BLE001  # ours, or the device's: nothing can go on
            self._fail(error)
        for run in self._running:
            for request in [each for each in run.requests if each.done]:
                run.requests.remove(request)
                run.tokens += request.tokens()
                self._answer(run, request)

    def finished(self) -> list[NativeRun]:
        """The batches that are over, which are forgotten."""
        over = [run for run in self._running if run.over]
        for run in over:
            self._running.remove(run)
        return over

    def __bool__(self) -> bool:
        """Whether any batch is open."""
        return bool(self._running)

    def _fail(self, error: Exception) -> None:
        """Answer what is open with what ended a pass, unless most of it is innocent of that."""
        if breaks_device(error) and sum(len(run.requests) for run in self._running) > 1:
            logger.error("An error has left the device unusable.", exc_info=error)
            self.device_lost = True
            return
        for run in self._running:
            run.requests = []
            self._host.failed(error, run.answers, run.items)

    def _answer(self, run: NativeRun, request: Request) -> None:
        if not run.requests:  # the batch's last: its times come before it
            self._host.add_times(run.context, (time.monotonic() - run.started) * 1000)
        run.answers.finish_one(
            request.index, encode_item(self._handler.result(request, run.context))
        )


def _context_of_its_own(context: Context) -> Context:
    """What a batch says of itself is not another's; the metrics' collector is shared."""
    own = copy.copy(context)
    own.metrics = copy.copy(context.metrics)
    return own
