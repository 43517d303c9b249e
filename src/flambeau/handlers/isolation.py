"""One bad input costs only itself, and a lack of memory costs only speed.

What fails together is run again in halves until the guilty items stand alone. After a lack of
memory what can be freed is freed first, and passes stay smaller for a while: a size that did not
fit is not tried again at once, and not given up for ever.
"""

import contextlib
import ctypes
import gc
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from flambeau.engines.base import RowLimits
from flambeau.errors import ErrorKind, PredictionError
from flambeau.handlers.failures import breaks_device, lacks_memory

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

LEAST_TOKENS = 16
"""Passes are not made smaller than this; what does not fit alone is told to its client."""

CALM_PASSES = 64
"""So many passes without a lack of memory let them have twice the tokens again."""


def run_isolated(
    run: Callable[[Sequence[Item]], list[Result]],
    items: Sequence[Item],
    on_shortage: Callable[[Sequence[Item]], None] = lambda _: None,
) -> list[Result | PredictionError]:
    """Run all items together; where that raises, halve until only the guilty ones fail.

    `on_shortage` hears of the items for which memory was short. One that is alone then is tried
    once more, with what was freed. Raises what has left the device unusable for everybody.
    """
    return _run(run, items, on_shortage, last=False)


def _run(
    run: Callable[[Sequence[Item]], list[Result]],
    items: Sequence[Item],
    on_shortage: Callable[[Sequence[Item]], None],
    *,
    last: bool,
) -> list[Result | PredictionError]:
    if not items:
        return []
    try:
        return list(run(items))
    except Exception as error:
        if breaks_device(error):
            raise
        short = lacks_memory(error)
        if len(items) == 1 and (last or not short):
            return [item_error(error)]
    # Out here nothing holds the failed pass's arrays any more, as the error's frames did.
    if short:
        free_memory()
        on_shortage(items)
    if len(items) == 1:
        return _run(run, items, on_shortage, last=True)
    middle = len(items) // 2
    halves = items[:middle], items[middle:]
    return [made for half in halves for made in _run(run, half, on_shortage, last=False)]


class Headroom:
    """How large passes may be after a lack of memory; before one, as large as the engine likes."""

    def __init__(self) -> None:
        self._most = 0  # tokens; 0: no limit
        self._calm = 0

    def limits(self, limits: RowLimits | None) -> RowLimits | None:
        """The engine's limits, or smaller ones. Rows that run alone stay alone."""
        if limits is None or not self._most:
            return limits
        if self._most >= limits.max_tokens:
            self._most = 0
            return limits
        return msgspec.structs.replace(limits, max_tokens=self._most)

    def run(
        self,
        run: Callable[[Sequence[Item]], list[Result]],
        items: Sequence[Item],
        tokens: Callable[[Item], int],
    ) -> list[Result | PredictionError]:
        """`run_isolated`, which is learned from; `tokens` is what an item costs."""
        made = run_isolated(
            run, items, lambda part: self.shortage(sum(map(tokens, part)), len(part))
        )
        self.passed()
        return made

    def shortage(self, tokens: int, rows: int) -> None:
        """Memory did not suffice for a pass of so many tokens. That of one row tells of no other."""
        self._calm = 0
        if rows > 1:
            self._most = max(tokens // 2, LEAST_TOKENS)
            logger.warning(
                "A pass of %d texts with %d tokens did not fit into memory: for now passes have at"
                " most %d.",
                rows, tokens, self._most,
            )  # fmt: skip

    def passed(self) -> None:
        """A pass is over."""
        self._calm += 1
        if self._most and self._calm > CALM_PASSES:
            self._most *= 2
            self._calm = 0


def free_memory() -> None:
    """Give back what no array needs: cycles, a framework's cache, the C library's free lists."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def hidden_error(error: BaseException, sentence: str) -> PredictionError:
    """An item's error for what may quote its text: the log gets the type and the places alone."""
    where = "".join(traceback.format_tb(error.__traceback__))
    kind = type(error).__name__
    logger.error("%s: %s\n%s", sentence, kind, where)
    if lacks_memory(error):
        return PredictionError(f"{sentence}: out of memory.", ErrorKind.OUT_OF_MEMORY)
    return PredictionError(f"{sentence} ({kind}).")


def item_error(error: Exception) -> PredictionError:
    """The error for the client, told only its type; an engine's reason goes to the log.

    Engines see numbers alone, so that no user's text is in what they raise.
    """
    if isinstance(error, PredictionError):
        return error
    logger.error("The model failed on one input.", exc_info=error)
    if lacks_memory(error):
        return PredictionError(
            "The model ran out of memory on this input. Send a shorter one.",
            ErrorKind.OUT_OF_MEMORY,
        )
    kind = type(error).__name__
    return PredictionError(f"The model failed on this input ({kind}). The server's log says why.")
