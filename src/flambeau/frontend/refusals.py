"""Answers to what is no request, or is not read; each is the end of its connection."""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from flambeau.errors import ErrorKind
from flambeau.frontend.exchange import new_request_id
from flambeau.protocols.status import http_error, json_body

MAX_HEAD_BYTES = 32 * 1024
"""Bytes of a request line and its headers (promises.md G19)."""

HEAD_SECONDS = 10.0
"""From its first byte, or the connection's begin, to the end of a request's headers.

The rest of a body that nobody reads, since its request is answered, has as long.
"""

_WHY = {
    400: (ErrorKind.INVALID_INPUT, "Invalid HTTP message."),
    408: (
        ErrorKind.REQUEST_TIMEOUT,
        f"The request's headers were not complete after {HEAD_SECONDS:g} s.",
    ),
    431: (
        ErrorKind.INVALID_INPUT,
        f"The request line and headers are larger than {MAX_HEAD_BYTES} bytes.",
    ),
    503: (
        ErrorKind.OVERLOADED,
        "Too many connections are open. The limit is that on open files (ulimit -n, LimitNOFILE).",
    ),
}


def refusal(status: int, common: bytes) -> bytes:
    """The whole answer; `common` are lines that every answer has."""
    kind, message = _WHY[status]
    body = json_body({"code": status, "type": http_error(kind).type, "message": message})
    head = (
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        + ("retry-after: 1\r\n" if status == 503 else "")
        + f"x-request-id: {new_request_id()}\r\nconnection: close\r\n\r\n"
    )
    return STATUS_LINE[status] + common + head.encode() + body
