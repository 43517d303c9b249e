"""What a handler's exception means, and one line that tells it."""

import gc
import resource
import sys
import traceback
from pathlib import Path

from flambeau.errors import ErrorKind, FlambeauError, LoadError, PredictionError
from flambeau.handlers.results import clean_text, prediction_error
from flambeau.handlers.ts.utils.util import PredictionException

__all__ = [
    "batch_failure",
    "breaks_device",
    "describe",
    "is_out_of_memory",
    "lacks_memory",
    "leaves_no_memory",
    "load_failure",
]

_LONGEST_TEXT = 2000
_SIGNS_OF_SHORTAGE = (
    "out of memory",
    "allocate memory",
    "failed to allocate",
    "bad_alloc",
    "bad allocation",
    "status_alloc_failed",
)


def load_failure(error: BaseException, model_dir: Path) -> LoadError:
    """The LoadError for what went wrong while loading: one line with the real cause."""
    if isinstance(error, LoadError):
        return LoadError(_one_line(error.message), error.kind)
    if isinstance(error, FlambeauError):
        return LoadError(_one_line(error.message))
    if isinstance(error, SystemExit):
        return LoadError(f"the handler called sys.exit while loading: {describe(error, model_dir)}")
    kind = ErrorKind.OUT_OF_MEMORY if is_out_of_memory(error) else ErrorKind.LOAD_FAILED
    return LoadError(describe(error, model_dir), kind)


def batch_failure(error: BaseException) -> PredictionError:
    """The error of every row for what `handle` raised (contract.md section 5.4).

    A handler's own PredictionException keeps its text and status. Any other exception's type and
    text belong into the log (promise R12), where the request's id leads to them.
    """
    if isinstance(error, PredictionError | PredictionException):
        return prediction_error(error)
    if is_out_of_memory(error):
        return PredictionError("Out of resources", ErrorKind.OUT_OF_MEMORY)
    return PredictionError("Prediction failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; any CUDA error counts, as under TorchServe."""
    if lacks_memory(error):
        return True
    return not isinstance(error, FlambeauError) and "CUDA" in clean_text(error)


def lacks_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, the machine's or a device's.

    Frameworks say so in exceptions of many kinds: a class of its own in torch on a GPU, a
    RuntimeError of its CPU allocator and of OpenVINO, one of ONNX Runtime's own, MemoryError.
    """
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    frameworks = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
    if not frameworks or isinstance(error, PredictionException):
        return False
    text = clean_text(error).lower()
    return any(sign in text for sign in _SIGNS_OF_SHORTAGE)


def breaks_device(error: BaseException) -> bool:
    """Whether a CUDA error has left this process unusable: any but a lack of memory may have."""
    if isinstance(error, FlambeauError | PredictionException) or "CUDA" not in clean_text(error):
        return False
    return not lacks_memory(error)


def leaves_no_memory(error: BaseException) -> bool:
    """Whether this process, which has a limit, stays short of memory after a lack of it.

    What the failed call has held is let go of first. True where more than three quarters of the
    limit are still in use: something keeps it, and the next request would fail, too.
    """
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if limit == resource.RLIM_INFINITY or not lacks_memory(error):
        return False
    try:
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        status = Path("/proc/self/status").read_text()
    except MemoryError:
        return True
    except OSError:
        return False
    kilobytes = status.partition("VmData:")[2].split(maxsplit=1)[:1]
    return bool(kilobytes) and int(kilobytes[0]) * 1024 > limit * 3 // 4


def describe(error: BaseException, model_dir: Path) -> str:
    """`ValueError: text (my_handler.py:12)`: the place is the innermost one in the archive."""
    text = _one_line(error)
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return told  # says the file and line itself
    places = [
        f"{path.relative_to(model_dir)}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if (path := Path(frame.f_code.co_filename)).is_relative_to(model_dir)
    ]
    return f"{told} ({places[-1]})" if places else told


def _one_line(text: object) -> str:
    line = " ".join(clean_text(text).split())
    return line if len(line) <= _LONGEST_TEXT else f"{line[:_LONGEST_TEXT]}…"
