"""What this server's HTTP APIs do: the one description from which OpenAPI documents are made.

Titles and operation ids are TorchServe's (contract.md section 6.9); where it used an id twice, the
paths that it is not named after have ids of their own.
"""

from flambeau import COMPATIBLE_VERSION
from flambeau.protocols.openapi import (
    BINARY,
    BOOLEAN,
    INTEGER,
    JSON,
    NUMBER,
    STRING,
    Body,
    Operation,
    Parameter,
    Schema,
    array_of,
    described,
    object_schema,
    openapi_document,
    optional,
    reference,
)

_ERROR = Body(reference("Error"))
_STATUS = Body(reference("Status"))
_ANYTHING: Schema = {"type": "object", "additionalProperties": True}
_DOCUMENT = Body(_ANYTHING)

_WORKER = object_schema(
    id=described(STRING, "The worker's number."),
    startTime={"type": "string", "format": "date-time"},
    status={"type": "string", "enum": ["READY", "LOADING", "UNLOADING"]},
    memoryUsage=described(INTEGER, "Resident memory in bytes."),
    pid=described(INTEGER, "Process id; -1 while there is no process."),
    gpu=described(BOOLEAN, "Whether it runs on a GPU."),
    gpuUsage=STRING,
    error=optional(described(STRING, "Why it could not load the model.")),
)
_MODEL = object_schema(
    modelName=STRING,
    modelVersion=STRING,
    modelUrl=STRING,
    runtime=STRING,
    minWorkers=INTEGER,
    maxWorkers=INTEGER,
    batchSize=INTEGER,
    maxBatchDelay=described(INTEGER, "Milliseconds."),
    responseTimeout=described(INTEGER, "Seconds."),
    startupTimeout=described(INTEGER, "Seconds."),
    maxRetryTimeoutInSec=INTEGER,
    clientTimeoutInMills=INTEGER,
    parallelType=STRING,
    parallelLevel=INTEGER,
    deviceType={"type": "string", "enum": ["cpu", "gpu"]},
    deviceIds=optional(array_of(INTEGER)),
    continuousBatching=BOOLEAN,
    useJobTicket=BOOLEAN,
    useVenv=BOOLEAN,
    stateful=BOOLEAN,
    sequenceMaxIdleMSec=INTEGER,
    sequenceTimeoutMSec=INTEGER,
    maxNumSequence=INTEGER,
    maxSequenceJobQueueSize=INTEGER,
    loadedAtStartup=BOOLEAN,
    archive=object_schema(
        sha256=described(STRING, "Of the archive; empty for a folder."),
        signature=described(STRING, "What its signature says."),
        signer=optional(STRING),
        reason=optional(STRING),
    ),
    workers=array_of(_WORKER),
    jobQueueStatus=object_schema(
        remainingCapacity=described(INTEGER, "Requests that can still be queued."),
        pendingRequests=described(INTEGER, "Requests that wait."),
    ),
    customizedMetadata=optional(described(_ANYTHING, "What the handler tells of itself.")),
    handler=described({"type": "object", "additionalProperties": STRING}, "How it is served."),
)

COMPONENTS: dict[str, Schema] = {
    "Error": object_schema(
        code=described(INTEGER, "The HTTP status."), type=STRING, message=STRING
    ),
    "Status": object_schema(status=STRING),
    "Models": object_schema(
        nextPageToken=optional(described(STRING, "The next_page_token of the next page.")),
        models=array_of(object_schema(modelName=STRING, modelUrl=STRING)),
    ),
    "Model": _MODEL,
    "Worker": _WORKER,
}


_NOT_FOUND = ("Model or version not found", _ERROR)
_UNEXPECTED = ("Internal server error", _ERROR)
_REFUSED: dict[int, tuple[str, Body | None]] = {
    400: ("Bad request", _ERROR),
    401: ("No right key", _ERROR),
    403: ("The key is for something else, or the path or the version is none", _ERROR),
    429: ("Too many wrong keys, or too many requests of a sequence", _ERROR),
}
_FAILURES: dict[int, tuple[str, Body | None]] = _REFUSED | {
    404: _NOT_FOUND,
    408: ("The body came too slowly", _ERROR),
    413: ("The body is larger than max_request_size", _ERROR),
    500: ("The worker died, or the answer is larger than max_response_size", _ERROR),
    503: ("The handler failed, no worker is available, or the queue is full", _ERROR),
    504: ("No answer in time", _ERROR),
    507: ("Out of resources", _ERROR),
}


def _prediction(name: str, path: str, summary: str, *parameters: Parameter) -> Operation:
    answer = ("What the handler returns", Body(BINARY, "*/*"))
    return Operation(
        name,
        "post",
        path,
        summary,
        {200: answer} | _FAILURES,
        parameters,
        Body(BINARY, "*/*"),
    )


_DEFAULT = "Ask the default version of a model."
_EXPLAIN = "Ask for an explanation."
PREDICTIONS = (
    _prediction("predictions", "/predictions/{model_name}", _DEFAULT),
    _prediction(
        "version_predictions",
        "/predictions/{model_name}/{model_version}",
        "Ask one version of a model.",
    ),
    _prediction(
        "path_predictions",
        "/predictions/{model_name}/{model_version}/{url_path}",
        "Ask one version of a model; the handler gets the rest of the path.",
    ),
    _prediction("explanations", "/explanations/{model_name}", _EXPLAIN),
    _prediction("version_explanations", "/explanations/{model_name}/{model_version}", _EXPLAIN),
    _prediction("legacy_predictions", "/{model_name}/predict", _DEFAULT),
    _prediction(
        "legacy_version_predictions",
        "/{model_name}/{model_version}/predict",
        "Ask one version of a model.",
    ),
)
SAGEMAKER = (
    _prediction(
        "invocations",
        "/invocations",
        "Ask the model that is named, or the only one that was loaded at start.",
        Parameter("model_name", "Name of the model; may be a field of a form, too."),
    ),
    _prediction("invoke", "/models/{model_name}/invoke", _DEFAULT),
)
KSERVE = (
    _prediction("kserve_v1_predict", "/v1/models/{model_name}:predict", _DEFAULT),
    _prediction("kserve_v1_explain", "/v1/models/{model_name}:explain", _EXPLAIN),
    _prediction("kserve_v2_infer", "/v2/models/{model_name}/infer", _DEFAULT),
    _prediction("kserve_v2_explain", "/v2/models/{model_name}/explain", _EXPLAIN),
)
OPEN_INFERENCE = (
    Operation("server_metadata", "get", "/v2", "The server.", {200: ("Metadata", _DOCUMENT)}),
    Operation(
        "server_live",
        "get",
        "/v2/health/live",
        "Whether the server runs.",
        {200: ("It does", Body(object_schema(live=BOOLEAN)))},
    ),
    Operation(
        "server_ready",
        "get",
        "/v2/health/ready",
        "Whether every model's workers are ready.",
        {status: ("Ready or not", Body(object_schema(ready=BOOLEAN))) for status in (200, 503)},
    ),
)
KSERVE_READY = (
    Operation(
        "kserve_v1_ready",
        "get",
        "/v1/models/{model_name}",
        "Whether a model has a worker that is ready.",
        _REFUSED
        | {
            200: ("Ready or not", Body(object_schema(name=STRING, ready=BOOLEAN))),
            404: _NOT_FOUND,
        },
    ),
)

_MODEL_PATH = "/models/{model_name}"
_VERSION_PATH = "/models/{model_name}/{model_version}"


def _manage(
    name: str,
    method: str,
    path: str,
    summary: str,
    responses: dict[int, tuple[str, Body | None]],
    parameters: tuple[Parameter, ...] = (),
) -> Operation:
    return Operation(
        name, method, path, summary, _REFUSED | responses | {500: _UNEXPECTED}, parameters
    )


def _default(value: float | bool, schema: Schema) -> Schema:
    return {**schema, "default": value}


_REGISTER_PARAMETERS = (
    Parameter(
        "url", "An archive or a folder of the model store, or an allowed URL.", required=True
    ),
    Parameter("model_name", "Name to serve it under; default: the manifest's."),
    Parameter("handler", "Handler; default: the manifest's."),
    Parameter(
        "runtime",
        "Runtime; default: the manifest's.",
        {"type": "string", "enum": ["python", "python3"]},
    ),
    Parameter("batch_size", "Most requests that one call of the handler answers.", INTEGER),
    Parameter("max_batch_delay", "Longest wait for a full batch, in milliseconds.", INTEGER),
    Parameter("initial_workers", "Workers to start.", INTEGER),
    Parameter("synchronous", "Whether to wait for the workers.", _default(True, BOOLEAN)),
    Parameter("response_timeout", "Longest silence of a worker, in seconds.", NUMBER),
    Parameter("startup_timeout", "Longest time to load the model, in seconds.", NUMBER),
    Parameter("s3_sse_kms", "Sign the download for an SSE-KMS bucket.", _default(False, BOOLEAN)),
)
_SCALE_PARAMETERS = (
    Parameter("min_worker", "Fewest workers.", _default(1, INTEGER)),
    Parameter("max_worker", "Most workers; default: min_worker.", INTEGER),
    Parameter("synchronous", "Whether to wait for the workers.", _default(False, BOOLEAN)),
)
_CUSTOMIZED = Parameter("customized", "Whether to ask the handler, too.", _default(False, BOOLEAN))


def _of_one_model(prefix: str, path: str, which: str) -> tuple[Operation, ...]:
    name = (Parameter("model_version", "Version; default: the default one."),)
    return (
        _manage(
            f"{prefix}describeModel",
            "get",
            path,
            f"Describe {which}.",
            {200: ("The model", Body(array_of(reference("Model")))), 404: _NOT_FOUND,
             503: ("No worker can be asked", _ERROR)},
            (_CUSTOMIZED,),
        ),
        _manage(
            f"{prefix}setAutoScale",
            "put",
            path,
            f"Change the number of workers of {which}.",
            {
                200: ("As many workers as asked for", _STATUS),
                202: ("Accepted", _STATUS),
                400: ("Bad request", _ERROR),
                404: _NOT_FOUND,
            },
            (*_SCALE_PARAMETERS, *(() if prefix else name)),
        ),
        _manage(
            f"{prefix}unregisterModel",
            "delete",
            path,
            f"Take {which} out of service; accepted requests are answered first.",
            {
                200: ("Unregistered", _STATUS),
                403: ("The default version goes last", _ERROR),
                404: _NOT_FOUND,
                405: ("The model API is disabled", _ERROR),
                408: ("Unregistered; requests ran longer than unregister_model_timeout", _ERROR),
            },
        ),
    )  # fmt: skip


_ONE_MODEL = (
    *_of_one_model("", _MODEL_PATH, "the default version of a model"),
    *_of_one_model("version_", _VERSION_PATH, "one version of a model, or `all` of them"),
    _manage(
        "setDefault",
        "put",
        f"{_VERSION_PATH}/set-default",
        "Send requests that name no version to this one.",
        {200: ("Default version updated", _STATUS), 404: _NOT_FOUND},
    ),
)
MANAGEMENT = (
    _manage(
        "listModels",
        "get",
        "/models",
        "List the registered models.",
        {200: ("Names, sorted", Body(reference("Models")))},
        (
            Parameter("limit", "Most names of a page, from 0 to 100.", _default(100, INTEGER)),
            Parameter("next_page_token", "Of the page before.", _default(0, INTEGER)),
        ),
    ),
    _manage(
        "registerModel",
        "post",
        "/models",
        "Register a model; parameters may come as a JSON object in the body instead.",
        {
            200: ("Registered", _STATUS),
            202: ("Accepted", _STATUS),
            400: ("A parameter or the archive is wrong", _ERROR),
            404: ("No such archive", _ERROR),
            405: ("The model API is disabled", _ERROR),
            409: ("This version is registered already, or was unregistered meanwhile", _ERROR),
            507: ("The model does not fit into memory, or not onto the disk", _ERROR),
        },
        _REGISTER_PARAMETERS,
    ),
    *_ONE_MODEL,
)
METRICS = (
    Operation(
        "metrics",
        "get",
        "/metrics",
        "Metrics in Prometheus' text format.",
        {200: ("Metrics", Body(STRING, "text/plain; version=0.0.4; charset=utf-8"))},
        (Parameter("name[]", "Names of metrics to choose.", array_of(STRING)),),
    ),
)


def _describe(operation_id: str, method: str, path: str, *, deprecated: bool = False) -> Operation:
    return Operation(
        operation_id,
        method,
        path,
        "This document.",
        {200: ("An OpenAPI document", _DOCUMENT)},
        deprecated=deprecated,
    )


DESCRIPTION = (
    _describe("apiDescription", "options", "/"),
    _describe("api-description", "get", "/api-description", deprecated=True),
    _describe("openapi", "get", "/openapi.json"),
)


def api_document(operations: tuple[Operation, ...]) -> dict[str, object]:
    """The document of everything that one listener serves."""
    return openapi_document("TorchServe APIs", COMPATIBLE_VERSION, operations, COMPONENTS)


def model_document(name: str) -> dict[str, object]:
    """The document of the calls that ask one model."""
    paths = {
        name: f"/predictions/{name}",
        f"{name}_kserve_v1": f"/v1/models/{name}:predict",
        f"{name}_kserve_v2": f"/v2/models/{name}/infer",
    }
    operations = [
        _prediction(key, path, f"A predict entry point for model: {name}.")
        for key, path in paths.items()
    ]
    return openapi_document(f"RESTful API for: {name}", "1.0.0", operations, COMPONENTS)


def management_document(name: str) -> dict[str, object]:
    """The document of the calls that manage one model."""
    title = f"RESTful Management API for: {name}"
    return openapi_document(title, COMPATIBLE_VERSION, _ONE_MODEL, COMPONENTS)


__all__ = [
    "DESCRIPTION",
    "JSON",
    "KSERVE",
    "KSERVE_READY",
    "MANAGEMENT",
    "METRICS",
    "OPEN_INFERENCE",
    "PREDICTIONS",
    "SAGEMAKER",
    "Operation",
    "api_document",
    "management_document",
    "model_document",
]
