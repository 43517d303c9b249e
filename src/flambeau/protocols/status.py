"""The only table from `ErrorKind` to HTTP: status, and the type name that TorchServe's clients know.

Bodies are `{"code", "type", "message"}`, indented by two, with a newline at the end (contract.md
section 5.8). Statuses are TorchServe's but where section 12 calls them a defect; there the table
has TorchServe's own beside ours, and `torchserve_statuses=true` in config.properties brings it
back.
"""

import json
from typing import NamedTuple

from flambeau.errors import WORKER_DIED, ErrorKind, FlambeauError, PredictionError


class HttpError(NamedTuple):
    """How one kind of error looks over HTTP; `torchserve` is TorchServe's status if it is another."""

    status: int
    type: str
    torchserve: int = 0


def http_error(kind: ErrorKind) -> HttpError:  # noqa: C901, PLR0911, PLR0912  # one exhaustive table
    """Look an error's status and type up; mypy keeps the match whole."""
    match kind:
        case ErrorKind.INVALID_INPUT:
            return HttpError(400, "BadRequestException")
        case ErrorKind.INVALID_ARCHIVE:
            return HttpError(400, "InvalidModelException")
        case ErrorKind.DOWNLOAD_FAILED:
            return HttpError(400, "DownloadArchiveException")
        case ErrorKind.UNTRUSTED:
            return HttpError(403, "UntrustedModelException")
        case ErrorKind.INVALID_KEY_TYPE:
            return HttpError(400, "InvalidKeyException")
        case ErrorKind.UNAUTHENTICATED:
            return HttpError(401, "InvalidKeyException", torchserve=400)
        case ErrorKind.WRONG_SCOPE:
            return HttpError(403, "InvalidKeyException", torchserve=400)
        case ErrorKind.TOO_MANY_FAILURES:
            return HttpError(429, "InvalidKeyException", torchserve=400)
        case ErrorKind.FOREIGN_ORIGIN | ErrorKind.FOREIGN_HOST:
            return HttpError(403, "ForbiddenException")
        case ErrorKind.MODEL_SETUP:
            return HttpError(400, "ModelException")
        case ErrorKind.INVALID_VERSION:
            return HttpError(403, "InvalidModelVersionException")
        case ErrorKind.INVALID_PATH:
            return HttpError(403, "IllegalArgumentException")
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
        case ErrorKind.OWN_LIMIT:
            return HttpError(429, "ServiceUnavailableException", torchserve=503)
        case ErrorKind.POISONOUS_INPUT:
            return HttpError(503, "ServiceUnavailableException", torchserve=500)
        case ErrorKind.HANDLER_FAILED:
            return HttpError(503, "InternalServerException")
        case ErrorKind.TIMEOUT:
            return HttpError(504, "InternalServerException", torchserve=500)
        case ErrorKind.OUT_OF_MEMORY:
            return HttpError(507, "InternalServerException")
        case ErrorKind.STORAGE:
            return HttpError(507, "InsufficientStorageException", torchserve=500)
        case ErrorKind.WORKER_DIED:
            return HttpError(503, "InternalServerException", torchserve=500)
        case (
            ErrorKind.SEQUENCE_LOST
            | ErrorKind.RESPONSE_TOO_LARGE
            | ErrorKind.LOAD_FAILED
            | ErrorKind.CONFIG
            | ErrorKind.INTERNAL
        ):
            return HttpError(500, "InternalServerException")


def error_response(error: FlambeauError, *, torchserve: bool = False) -> tuple[int, bytes]:
    """The status and JSON body of an error. A handler's own status wins where it is a valid one.

    With `torchserve`, as TorchServe answers it where ours is another.
    """
    status, type_name, theirs = http_error(error.kind)
    message = error.message
    if torchserve:
        status = theirs or status
        if error.kind in {ErrorKind.TIMEOUT, ErrorKind.RESPONSE_TOO_LARGE}:
            message = WORKER_DIED
    if isinstance(error, PredictionError) and error.status is not None:
        status = error.status if 200 <= error.status <= 999 else 500
        type_name = "InternalServerException"
        if torchserve and status == 413:
            status = 507
    return status, error_body(status, type_name, message)


def error_body(status: int, type_name: str, message: str) -> bytes:
    """What `json_body` makes of the three, in a tenth of its time: overload is full of errors."""
    return (
        f'{{\n  "code": {status},\n  "type": "{type_name}",\n'
        f'  "message": {json.dumps(message)}\n}}\n'
    ).encode()


def json_body(document: object) -> bytes:
    """JSON as TorchServe prints its own documents: indented by two, newline at the end."""
    return (json.dumps(document, indent=2) + "\n").encode()
