"""The only table from `ErrorKind` to HTTP: status, and the type name that TorchServe's clients know.

Bodies are `{"code", "type", "message"}`, indented by two, with a newline at the end (contract.md
section 5.8). What differs from TorchServe: a worker's death is a 503 with `Retry-After`, a time-out
a 504, and a body over the limit gets a JSON body like every other error.
"""

import json
from typing import NamedTuple

from flambeau.errors import ErrorKind, FlambeauError, PredictionError


class HttpError(NamedTuple):
    """How one kind of error looks over HTTP."""

    status: int
    type: str


def http_error(kind: ErrorKind) -> HttpError:  # noqa: C901, PLR0911, PLR0912  # one exhaustive table
    """Look an error's status and type up; mypy keeps the match whole."""
    match kind:
        case ErrorKind.INVALID_INPUT:
            return HttpError(400, "BadRequestException")
        case ErrorKind.INVALID_ARCHIVE:
            return HttpError(400, "InvalidModelException")
        case ErrorKind.INVALID_VERSION:
            return HttpError(403, "InvalidModelVersionException")
        case ErrorKind.MODEL_NOT_FOUND:
            return HttpError(404, "ModelNotFoundException")
        case ErrorKind.VERSION_NOT_FOUND:
            return HttpError(404, "ModelVersionNotFoundException")
        case ErrorKind.ROUTE_NOT_FOUND:
            return HttpError(404, "ResourceNotFoundException")
        case ErrorKind.METHOD_NOT_ALLOWED:
            return HttpError(405, "MethodNotAllowedException")
        case ErrorKind.REQUEST_TIMEOUT:
            return HttpError(408, "RequestTimeoutException")
        case ErrorKind.CONFLICT:
            return HttpError(409, "ConflictStatusException")
        case ErrorKind.PAYLOAD_TOO_LARGE:
            return HttpError(413, "RequestEntityTooLargeException")
        case ErrorKind.CANCELLED:
            return HttpError(499, "ClientClosedRequestException")
        case ErrorKind.NO_WORKER | ErrorKind.OVERLOADED:
            return HttpError(503, "ServiceUnavailableException")
        case ErrorKind.WORKER_DIED | ErrorKind.HANDLER_FAILED:
            return HttpError(503, "InternalServerException")
        case ErrorKind.TIMEOUT:
            return HttpError(504, "InternalServerException")
        case ErrorKind.OUT_OF_MEMORY:
            return HttpError(507, "InternalServerException")
        case ErrorKind.LOAD_FAILED | ErrorKind.CONFIG | ErrorKind.INTERNAL:
            return HttpError(500, "InternalServerException")


def error_response(error: FlambeauError) -> tuple[int, bytes]:
    """The status and JSON body of an error. A handler's own status wins where it is a valid one."""
    status, type_name = http_error(error.kind)
    if isinstance(error, PredictionError) and error.status is not None:
        status = error.status if 200 <= error.status <= 599 else 500
        type_name = "InternalServerException"
    document = {"code": status, "type": type_name, "message": error.message}
    return status, json_body(document)


def json_body(document: object) -> bytes:
    """JSON as TorchServe prints its own documents: indented by two, newline at the end."""
    return (json.dumps(document, indent=2) + "\n").encode()
