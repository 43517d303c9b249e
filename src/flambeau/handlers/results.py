"""What a handler returned, as the bytes that clients get (contract.md section 5.4)."""

import msgspec

from flambeau.errors import PredictionError
from flambeau.handlers.ts.protocol.frames import item_bytes
from flambeau.handlers.ts.utils.util import PredictionException

__all__ = ["Body", "clean_text", "encode_item", "encode_items", "prediction_error"]

_UNSUPPORTED = "Unsupported model output data type."


class Body(msgspec.Struct, frozen=True):
    """One answer's bytes. `content_type` is "" unless the bytes are JSON that we wrote."""

    data: bytes
    content_type: str = ""


def encode_items(result: object, count: int) -> list[Body | PredictionError]:
    """The answers to a batch of `count` rows, each with bytes or an error of its own.

    Raises PredictionError, for all rows, where `result` is not a list or has another length.
    """
    if not isinstance(result, list):
        raise PredictionError("Invalid model predict output")
    if len(result) != count:
        raise PredictionError("number of batch response mismatched")
    return [encode_item(item) for item in result]


def encode_item(item: object) -> Body | PredictionError:
    """One answer: bytes as they are, text as UTF-8, a tensor as `torch.save` writes it, else JSON.

    NaN and infinities, which JSON has not, become null. An answer that is an error, or that none
    of this fits, gives a PredictionError.
    """
    if isinstance(item, PredictionError | PredictionException):
        return prediction_error(item)
    try:
        return Body(*item_bytes(item))
    except (TypeError, ValueError, RecursionError, OverflowError):
        return PredictionError(_UNSUPPORTED)


def prediction_error(error: PredictionError | PredictionException) -> PredictionError:
    """A handler's own error, with the status that it chose if that is a status."""
    if isinstance(error, PredictionError):
        return error
    code: object = error.error_code  # users pass what they like
    status = int(code) if isinstance(code, int) and 0 < code < 1000 else None
    return PredictionError(clean_text(error.message), status=status)


def clean_text(text: object) -> str:
    """`str(text)` with "?" for what UTF-8 cannot express, so that it can leave the process."""
    try:
        told = str(text)
    except Exception:  # noqa: BLE001  # users' code
        told = f"(a {type(text).__name__} whose text cannot be told)"
    return told.encode("utf-8", "replace").decode()
