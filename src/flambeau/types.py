"""The vocabulary that every room shares: what a request, a field and a chunk are."""

from typing import Literal

import msgspec
from typing_extensions import override

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
"""What `json.loads` returns."""

TaskName = Literal[
    "text-classification",
    "token-classification",
    "question-answering",
    "fill-mask",
    "zero-shot-classification",
    "text-ranking",
    "sentence-similarity",
    "feature-extraction",
    "embeddings",
    "text-generation",
    "text2text-generation",
    "summarization",
    "translation",
    "image-classification",
    "automatic-speech-recognition",
]
Lane = Literal["interactive", "bulk"]
"""Who goes first: bulk work yields to interactive requests (docs/batching.md)."""

LANE_HEADER = "x-flambeau-lane"
"""The request header, in lower case, that asks for a lane."""

BULK_TURN = 4
"""While interactive requests wait, every so many-th turn is bulk work's: in a model's queue, and
among the forward passes of a worker."""

OutputShape = Literal["legacy", "full"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]

SandboxLevel = Literal["none", "basic", "strict"]
"""What a handler's process may do, from all to little (docs/security.md)."""
"""The numbers that a forward pass computes with; `int8` keeps activations in floating point
between the matrix products."""


class ModelKey(msgspec.Struct, frozen=True, order=True):
    """One model: its name and version."""

    name: str
    version: str

    @override
    def __str__(self) -> str:
        return f"{self.name}_{self.version}"


class Field(msgspec.Struct, frozen=True, array_like=True):
    """One named part of a request's body, not decoded (contract.md section 5.3).

    A raw body is one field called `body`; a form has one field per part. `content_type` is the
    part's media type without parameters, or "" where the value must stay bytes.
    """

    name: str
    content_type: str
    value: bytes


class InferenceRequest(msgspec.Struct, frozen=True, array_like=True):
    """One item to predict, as it travels from a protocol to a worker."""

    id: str
    headers: dict[str, str]
    fields: list[Field]


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """A part of an answer; the last one says so. A unary answer is a stream of one chunk.

    `status` 0 means that the handler chose none. Only the first chunk's status, reason, headers
    and content type can reach the client.
    """

    body: bytes
    last: bool = True
    status: int = 0
    reason: str = ""
    content_type: str = ""
    headers: dict[str, str] = {}


MetricKind = Literal["counter", "gauge", "histogram"]


class MetricSpec(msgspec.Struct, frozen=True, array_like=True):
    """What a metric is: `dimensions` are the names of its labels, without the host's."""

    name: str
    unit: str
    kind: MetricKind
    dimensions: tuple[str, ...] = ()


class MetricSample(msgspec.Struct, frozen=True, array_like=True):
    """One value that a handler reported. `dimensions` are names and values, without the host's.

    `request_id` joins the ids of several requests by commas; "" where there is none.
    """

    name: str
    value: float
    unit: str
    kind: MetricKind
    dimensions: list[tuple[str, str]]
    request_id: str = ""


class Phases(msgspec.Struct, frozen=True, array_like=True):
    """Where the time of one batch of a native handler went, in seconds, and its tokens.

    `tokens` were read and generated; `padding` tokens were computed for nothing.
    """

    tokenise: float
    compute: float
    postprocess: float
    tokens: int
    padding: int
