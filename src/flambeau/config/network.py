"""The keys of `flambeau.config.schema` that are about connections: addresses, TLS, browsers, sizes, a stop."""

from pathlib import Path
from typing import Annotated

import msgspec

from flambeau.config.addresses import Address
from flambeau.config.setting import INT64_MAX, Setting

_GRPC = "gRPC is not supported yet"


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What can be set about connections. Times are in seconds, sizes in bytes."""

    inference_address: Annotated[
        Address,
        Setting(
            "predictions, explanations, ping: `http://host[:port]` (80), `https://host[:port]` (443)"
            " or `unix:/path`"
        ),
    ] = Address(port=8080)
    management_address: Annotated[
        Address,
        Setting(
            "registering and scaling models (8081, 8444); the same address: one listener"
            " serves both"
        ),
    ] = Address(port=8081)
    metrics_address: Annotated[Address, Setting("the Prometheus endpoint (8082, 8445)")] = Address(
        port=8082
    )
    http_workers: Annotated[
        int,
        Setting(
            "processes that terminate HTTP at inference_address, for models that outrun one Python"
            " process; 1: the server process does it itself. Needs a port of its own",
            low=1,
            high=64,
            own=True,
        ),
    ] = 1
    front_end: Annotated[
        str, Setting("who terminates HTTP at inference_address where http_workers is 1: the `server`"
            " process, or a `process` of its own, which is replaced when it dies and leaves models"
            " alone", choices=("server", "process"), own=True)
    ] = "server"  # fmt: skip
    drain_delay: Annotated[
        float, Setting("a stop goes on serving for so long, not ready, for those that watch /readyz to"
            " leave", high=3600, unit="s", own=True)
    ] = 0  # fmt: skip
    shutdown_grace: Annotated[
        float, Setting("longest wait of a stop for requests in flight, after drain_delay", low=1,
            high=86_400, unit="s", own=True)
    ] = 30  # fmt: skip
    cors_allowed_origin: Annotated[
        str, Setting("value of `Access-Control-Allow-Origin` on every response")
    ] = ""
    cors_allowed_methods: Annotated[str, Setting("value of `Access-Control-Allow-Methods`")] = ""
    cors_allowed_headers: Annotated[str, Setting("value of `Access-Control-Allow-Headers`")] = ""
    private_key_file: Annotated[
        Path | None,
        Setting(
            "key for `https` addresses: PEM, not encrypted; neither this nor keystore:"
            " a self-signed certificate"
        ),
    ] = None
    certificate_file: Annotated[Path | None, Setting("certificate chain for `https`: PEM")] = None
    keystore: Annotated[
        Path | None, Setting("key and certificates in one PKCS12 file; goes before the PEM files")
    ] = None
    keystore_pass: Annotated[str, Setting("password of the keystore")] = "changeit"  # noqa: S105  # TorchServe's default
    keystore_type: Annotated[str, Setting("`PKCS12`; other kinds have to be converted")] = "PKCS12"
    client_ca_file: Annotated[
        Path | None,
        Setting(
            "clients of `https` addresses need a certificate signed by one of these: PEM", own=True
        ),
    ] = None
    allowed_hosts: Annotated[
        tuple[str, ...],
        Setting("names, besides IP addresses and localhost, by which clients may call a management"
            " API that is on loopback and asks for no tokens", own=True),
    ] = ()  # fmt: skip
    insecure_addresses: Annotated[
        bool,
        Setting("let other machines reach the management API with no tokens and the model API on:"
            " whoever connects can run code", own=True),
    ] = False  # fmt: skip
    max_connections: Annotated[
        int,
        Setting(
            "connections of each listener and front-end process; beyond, the one that is idle longest"
            " makes room, or the new one gets a 503; 0: no limit",
            own=True,
        ),
    ] = 8192
    max_connections_per_address: Annotated[
        int,
        Setting(
            "of those, connections of one IP address; loopback and Unix sockets have no such limit."
            " Raise it behind a balancer that opens more; 0: no limit",
            own=True,
        ),
    ] = 1024
    max_request_size: Annotated[
        int, Setting("largest request body; a higher value is lowered to what a worker's message holds",
                 low=1, unit="bytes")
    ] = 6553500  # fmt: skip
    max_response_size: Annotated[
        int, Setting("largest answer, or part of one that is streamed", low=1, unit="bytes")
    ] = 6553500

    grpc_inference_address: Annotated[str, Setting("gRPC inference host", unused=_GRPC)] = (
        "127.0.0.1"
    )
    grpc_inference_port: Annotated[int, Setting("port", high=65535, unused=_GRPC)] = 7070
    grpc_management_address: Annotated[str, Setting("gRPC management host", unused=_GRPC)] = (
        "127.0.0.1"
    )
    grpc_management_port: Annotated[int, Setting("port", high=65535, unused=_GRPC)] = 7071
    grpc_inference_max_connection_age_ms: Annotated[
        int, Setting("connections are closed at this age", high=INT64_MAX, unit="ms", unused=_GRPC)
    ] = INT64_MAX
    grpc_inference_max_connection_age_grace_ms: Annotated[
        int, Setting("grace after that age", high=INT64_MAX, unit="ms", unused=_GRPC)
    ] = INT64_MAX
    grpc_management_max_connection_age_ms: Annotated[
        int, Setting("connections are closed at this age", high=INT64_MAX, unit="ms", unused=_GRPC)
    ] = INT64_MAX
    grpc_management_max_connection_age_grace_ms: Annotated[
        int, Setting("grace after that age", high=INT64_MAX, unit="ms", unused=_GRPC)
    ] = INT64_MAX
    enable_grpc_ssl: Annotated[bool, Setting("TLS on both gRPC ports", unused=_GRPC)] = False
