"""Answers to what is no request, or is not read; each is the end of its connection."""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from flambeau.errors import ErrorKind
from flambeau.frontend.exchange import new_request_id
from flambeau.protocols import limits
from flambeau.protocols.status import error_body, http_error

_WHY = {
    400: (ErrorKind.INVALID_INPUT, "Invalid HTTP message."),
    408: (
        ErrorKind.REQUEST_TIMEOUT,
        f"The request's headers were not complete after {limits.HEAD_SECONDS:g} s.",
    ),
    431: (
        ErrorKind.INVALID_INPUT,
        f"The request line and headers are larger than {limits.MAX_HEAD_BYTES} bytes, or more than"
        f" {limits.MAX_HEADERS}.",
    ),
    503: (
        ErrorKind.OVERLOADED,
        "Too many connections are open. The limit is that on open files (ulimit -n, LimitNOFILE).",
    ),
}


def refusal(status: int, common: bytes, reason: str = "") -> bytes:
    """The whole answer; `common` are lines that every answer has. `reason` goes before the usual."""
    kind, usual = _WHY[status]
    body = error_body(status, http_error(kind).type, reason or usual)
    head = (
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        + ("retry-after: 1\r\n" if status == 503 else "")
        + f"x-request-id: {new_request_id()}\r\nconnection: close\r\n\r\n"
    )
    return STATUS_LINE[status] + common + head.encode() + body
