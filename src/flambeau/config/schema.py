"""Every key that can be set: its type, default, range, unit, meaning and environment variable.

The one schema: the loader reads it, and `docs/configuration.md` is made from it
(`python -m flambeau.config.reference`). Keys are TorchServe's (contract.md section 3) unless
marked `own`. Times are in seconds and sizes in bytes unless the unit says otherwise.
"""

from pathlib import Path
from typing import Annotated

import msgspec
from typing_extensions import override

from flambeau.config.network import NetworkConfig
from flambeau.config.setting import INT64_MAX, Setting

DEFAULT_PRELOAD = ("flambeau.handlers.preload",)
"""Torch, transformers and the models that most archives hold."""
MAX_REQUEST_BYTES = 896 * 1024 * 1024
"""Highest `max_request_size`: what fits into one message to a worker."""

_FILE_ONLY = ""


class ServerConfig(NetworkConfig, msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set for a server. Times are in seconds, sizes in bytes."""

    model_store: Annotated[
        Path | None, Setting("folder that holds the archives (`--model-store`)")
    ] = None
    workflow_store: Annotated[
        Path | None,
        Setting("folder that holds workflow archives", unused="workflows are not supported yet"),
    ] = None
    load_models: Annotated[
        tuple[str, ...],
        Setting("models to load at start: file, name=file, folder, allowed address, or `all`"),
    ] = ()
    models: Annotated[
        dict[str, dict[str, dict[str, object]]],
        Setting("defaults of single models, JSON: `{name: {version: {batchSize: …}}}`",
            variable=_FILE_ONLY),
    ] = {}  # fmt: skip
    model_snapshot: Annotated[
        dict[str, object],
        Setting("a snapshot, JSON: start restores it and ignores load_models", variable=_FILE_ONLY),
    ] = {}
    no_config_snapshots: Annotated[
        bool, Setting("neither read nor write snapshots (`--ncs`)", own=True, variable=_FILE_ONLY)
    ] = False
    snapshots_kept: Annotated[
        int, Setting("snapshots of each kind that are kept; 0: all of them", own=True)
    ] = 20
    default_workers_per_model: Annotated[
        int, Setting("workers of a model that says nothing; 0: one per GPU, or one", high=1024)
    ] = 0
    default_response_timeout: Annotated[
        float, Setting("longest silence of a worker that has requests", low=1, unit="s")
    ] = 120
    default_startup_timeout: Annotated[
        float, Setting("longest time to load a model", low=1, unit="s")
    ] = 120
    unregister_model_timeout: Annotated[
        float, Setting("longest wait for accepted requests when a model leaves", unit="s")
    ] = 120
    job_queue_size: Annotated[
        int, Setting("waiting requests per model version; more are refused", low=1)
    ] = 100
    job_queue_bytes: Annotated[
        int,
        Setting(
            "bytes of the requests that one model version has accepted and not answered; more are refused",
            low=1, high=INT64_MAX, unit="bytes", own=True),
    ] = 1024**3  # fmt: skip
    job_queue_timeout: Annotated[
        float,
        Setting(
            "longest wait for a worker where the model has no clientTimeoutInMills; 0: 120, or its"
            " responseTimeout if that is longer",
            unit="s", own=True),
    ] = 0  # fmt: skip
    max_pending_bytes: Annotated[
        int,
        Setting(
            "bytes of all request bodies that are being received or were not answered; more are refused."
            " With http_workers, each process counts what it receives",
            low=1, high=INT64_MAX, unit="bytes", own=True),
    ] = 2 * 1024**3  # fmt: skip
    default_service_handler: Annotated[str, Setting("handler of archives that name none")] = ""
    service_envelope: Annotated[
        str, Setting("form of request bodies", choices=("", "body", "json", "kserve", "kservev2"))
    ] = ""
    decode_input_request: Annotated[
        bool, Setting("decode JSON and text bodies; false: handlers get bytes")
    ] = True
    limit_max_image_pixels: Annotated[
        bool, Setting("keep Pillow's limit on image sizes in vision handlers")
    ] = True
    ts_header_key_sequence_id: Annotated[
        str, Setting("header that names a request's sequence", variable="TS_HEADER_KEY_SEQUENCE_ID")
    ] = "ts_request_sequence_id"
    ts_header_key_sequence_start: Annotated[
        str, Setting("header that opens a sequence", variable="TS_HEADER_KEY_SEQUENCE_START")
    ] = "ts_request_sequence_start"
    ts_header_key_sequence_end: Annotated[
        str, Setting("header that closes a sequence", variable="TS_HEADER_KEY_SEQUENCE_END")
    ] = "ts_request_sequence_end"
    ts_open_inference_protocol: Annotated[
        bool,
        Setting("serve the Open Inference Protocol; the variable, with value `oip`, needs no switch",
            variable="TS_OPEN_INFERENCE_PROTOCOL"),
    ] = False  # fmt: skip

    number_of_gpu: Annotated[int, Setting("use at most this many GPUs; -1: all", low=-1)] = -1
    initial_worker_port: Annotated[
        int, Setting("number of the first worker, in log lines; no port is opened", high=65535)
    ] = 9000
    initial_distribution_port: Annotated[
        int,
        Setting(
            "number of the first worker of a model with parallelLevel, in log lines",
            low=1,
            high=65535,
        ),
    ] = 29500
    install_py_dep_per_model: Annotated[
        bool, Setting("install an archive's requirements file when it is registered")
    ] = False
    install_py_dep_timeout: Annotated[
        float, Setting("longest time for such an installation", low=1, unit="s", own=True)
    ] = 600
    blacklist_env_vars: Annotated[
        str, Setting("variables whose full name matches are kept from workers", regex=True)
    ] = ""
    worker_memory_limit: Annotated[
        int,
        Setting("most memory of one worker, beside the files that it maps; beyond it, what it computes is"
            " answered 507; 0: no limit. A model's own: `memoryLimit` in its model-config.yaml",
            high=INT64_MAX, unit="bytes", own=True),
    ] = 0  # fmt: skip
    pass_env_vars: Annotated[
        tuple[str, ...],
        Setting("patterns of variables that workers get although their names speak of secrets"
            " (`AWS_.*,HF_TOKEN`)", regex=True, own=True),
    ] = ()  # fmt: skip
    sandbox: Annotated[
        str,
        Setting("what handlers' processes may do (docs/security.md); a model's file may ask for"
            " more confinement, never for less", choices=("none", "basic", "strict"), own=True),
    ] = "basic"  # fmt: skip
    sandbox_net: Annotated[
        bool, Setting("IP sockets for handlers at the level strict", own=True)
    ] = False
    ipex_enable: Annotated[bool, Setting("handed to workers as `TS_IPEX_ENABLE`")] = False
    ipex_gpu_enable: Annotated[bool, Setting("handed to workers as `TS_IPEX_GPU_ENABLE`")] = False
    preload: Annotated[
        tuple[str, ...],
        Setting(
            "modules imported once, before workers are forked; empty: none. By default, models that run in ONNX Runtime or OpenVINO do without torch",
            own=True,
        ),
    ] = DEFAULT_PRELOAD
    vmargs: Annotated[
        str, Setting("arguments of TorchServe's JVM", unused="for TorchServe's JVM only")
    ] = ""

    enable_model_api: Annotated[
        bool, Setting("let clients register and unregister models (`--enable-model-api`)")
    ] = False
    disable_token_authorization: Annotated[
        bool, Setting("no tokens are asked for (`--disable-token-auth`)")
    ] = False
    token_expiration_min: Annotated[
        float, Setting("life of a token", unit="minutes", variable="TS_TOKEN_EXPIRATION_TIME_MIN")
    ] = 60
    key_file: Annotated[
        Path, Setting("where the tokens are written, readable by the server's user only", own=True)
    ] = Path("key_file.json")
    token_overlap: Annotated[
        float,
        Setting("how long an old token goes on working after `/token` has made a new one",
            unit="s", own=True),
    ] = 0  # fmt: skip
    tokens_file: Annotated[
        Path,
        Setting("named tokens, hashed, as `flambeau token create` writes them; read again when it"
            " changes", own=True),
    ] = Path("flambeau_tokens.json")  # fmt: skip
    token_failures_per_minute: Annotated[
        int,
        Setting("wrong tokens of one client address before it gets 429; right ones always pass;"
            " 0: no limit", own=True),
    ] = 60  # fmt: skip
    metrics_token: Annotated[
        bool,
        Setting("`/metrics` takes a metrics or management token at its own address, too", own=True),
    ] = False
    allowed_urls: Annotated[
        tuple[str, ...],
        Setting("patterns of the addresses that archives may be fetched from; empty: the store only",
            regex=True),
    ] = ()  # fmt: skip
    use_env_allowed_urls: Annotated[
        bool, Setting("let `TS_ALLOWED_URLS` replace allowed_urls", variable=_FILE_ONLY)
    ] = False
    download_max_bytes: Annotated[
        int,
        Setting("largest archive that is fetched", low=1, high=INT64_MAX, unit="bytes", own=True),
    ] = 32 * 1024**3
    download_timeout: Annotated[
        float, Setting("longest time to fetch an archive", low=1, unit="s", own=True)
    ] = 1800
    require_signed: Annotated[
        str,
        Setting(
            "models without a trusted signature: `require` refuses them, `warn` logs those with code of"
            " their own (`--require-signed`; docs/security.md)",
            choices=("off", "warn", "require"),
            own=True,
        ),
    ] = "warn"
    trusted_keys: Annotated[
        Path | None,
        Setting(
            "whose signatures count: a folder of public keys and authorities' certificates (PEM), or"
            " one such file; read again for each model",
            own=True,
        ),
    ] = None
    trusted_identities: Annotated[
        tuple[str, ...],
        Setting(
            "names or addresses in certificates of those who may sign; empty: all whom the authorities"
            " vouch for",
            own=True,
        ),
    ] = ()
    enable_envvars_config: Annotated[
        bool, Setting("let environment variables override keys", variable=_FILE_ONLY)
    ] = False

    torchserve_statuses: Annotated[
        bool,
        Setting("answer errors with TorchServe's statuses where ours differ (docs/migrating.md)",
            own=True),
    ] = False  # fmt: skip
    enable_metrics_api: Annotated[bool, Setting("serve metrics_address")] = True
    metrics_mode: Annotated[
        str, Setting("where metrics go", choices=("log", "prometheus", "legacy"))
    ] = "log"
    metrics_config: Annotated[Path | None, Setting("a metrics.yaml; default: the built-in one")] = (
        None
    )
    model_metrics_auto_detect: Annotated[
        bool | None,
        Setting(
            "accept handlers' metrics that are not listed; default: unless metrics_config is set"
        ),
    ] = None
    disable_system_metrics: Annotated[bool, Setting("do not sample CPU, memory, disk and GPU")] = (
        False
    )
    metric_time_interval: Annotated[
        int, Setting("time between two samples", low=1, unit="s", variable=_FILE_ONLY)
    ] = 60
    log_location: Annotated[
        Path | None, Setting("folder of the log files", variable="LOG_LOCATION", in_file=False)
    ] = None
    metrics_location: Annotated[
        Path | None, Setting("folder of metric logs", variable="METRICS_LOCATION", in_file=False)
    ] = None
    cache_dir: Annotated[
        Path,
        Setting("unpacked archives, prepared models, environments; default: below `TEMP` if set,"
            " else `~/.cache/flambeau`", variable="FLAMBEAU_CACHE", in_file=False, own=True),
    ] = Path()  # fmt: skip
    cache_max_bytes: Annotated[
        int,
        Setting("unpacked archives that no server uses are removed beyond this, the longest unused"
            " first", high=INT64_MAX, unit="bytes", own=True),
    ] = 64 * 1024**3  # fmt: skip
    cache_max_days: Annotated[
        int, Setting("unpacked archives that no server has used for so long are removed; 0: never",
            unit="days", own=True)
    ] = 30  # fmt: skip
    notes: tuple[str, ...] = ()

    @override
    def __repr__(self) -> str:
        """Without the password: a record may end up in a log or a traceback."""
        fields = {key: getattr(self, key) for key in self.__struct_fields__}
        fields["keystore_pass"] = "***"  # noqa: S105
        return f"ServerConfig({', '.join(f'{key}={value!r}' for key, value in fields.items())})"
