"""What a client may send and how long it may take, in one place (docs/security.md has the table).

Times are in seconds. The size of a body is `max_request_size`, the number of connections
`max_connections` and `max_connections_per_address` of config.properties.
"""

MAX_HEAD_BYTES = 32 * 1024
"""A request line and its headers; what stands in a body beside its data (chunk extensions, trailers)
has as much."""

MAX_HEADERS = 512

MAX_PARTS = 64
"""Fields of a form, multipart or urlencoded."""

MAX_QUERY_PARAMETERS = 1000

MAX_PARAMETERS_BYTES = 64 * 1024
"""The JSON body of a call of the management API."""

HEAD_SECONDS = 10.0
"""From its first byte, or the connection's begin, to the end of a request's headers.

The rest of a body that nobody reads, since its request is answered, has as long.
"""

BODY_SECONDS = 10.0
"""A body has to bring `BODY_RATE` bytes a second in each stretch of so long, or to end in it."""

BODY_RATE = 1024

IDLE_SECONDS = 60.0
"""A connection may be without a request for so long."""

WRITE_SECONDS = 30.0
"""A client that takes no byte of its answer for so long is cut off."""

HANDSHAKE_SECONDS = 10.0
"""Of TLS; uvicorn has no setting, and its loop waits a minute."""

GOODBYE_SECONDS = 1.0
"""A TLS client that has its answers may take so long to agree to the end."""
