"""`flambeau serve`: from a hub id, a folder or an archive to a served model in one command."""

import json
import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

from flambeau.cli.early import early_zygote
from flambeau.cli.logs import set_up_logging
from flambeau.cli.targets import Choices, Target, resolve
from flambeau.config import Address, ServerConfig, default_cache_dir
from flambeau.errors import ConfigError, FlambeauError
from flambeau.handlers.settings import EngineChoice, PrecisionChoice
from flambeau.serving.admission import signature_policy
from flambeau.tasks import load as load_task
from flambeau.types import OutputShape, TaskName

if TYPE_CHECKING:
    from flambeau.server import Server
    from flambeau.supervisor.zygote import Zygote

_READ_KEY_FILE = (  # for the shell that runs the example
    """TOKEN=$(python3 -c 'import json; """
    """print(json.load(open("key_file.json"))["inference"]["key"])')"""
)

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A hub id, a folder written by save_pretrained, or an archive (.mar)."
    ),
]
NameOption = Annotated[str | None, typer.Option(help="Name to serve under [default: from MODEL].")]
TaskOption = Annotated[
    TaskName | None, typer.Option(help="The model's task [default: from its config.json].")
]
OutputOption = Annotated[
    OutputShape | None,
    typer.Option(
        help="Answers with scores and offsets, or as TorchServe gave them [default: full]."
    ),
]
LengthOption = Annotated[
    int | None, typer.Option(min=2, help="Cut texts to this many tokens [default: the model's].")
]
EngineOption = Annotated[
    EngineChoice | None,
    typer.Option(help="What runs the model [default: auto, as flambeau tune measured it]."),
]
PrecisionOption = Annotated[
    PrecisionChoice | None,
    typer.Option(help="What it computes in; auto: what was measured [default: fp32 on a CPU]."),
]
RevisionOption = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of a hub model [default: main].")
]


RequireSigned = Literal["off", "warn", "require"]


def _port(help_text: str) -> Any:  # typer's own return type
    return typer.Option(min=0, max=65535, help=help_text)


def serve(
    model: ModelArgument,
    name: NameOption = None,
    task: TaskOption = None,
    output: OutputOption = None,
    max_length: LengthOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    revision: RevisionOption = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Most requests in a batch [default: 32].")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Worker processes [default: 1 on a CPU, 1 per GPU]."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address of the inference API; the others stay on loopback.")
    ] = "127.0.0.1",
    port: Annotated[int, _port("Port of the inference API; 0: a free one.")] = 8080,
    management_port: Annotated[int, _port("Port of the management API.")] = 8081,
    metrics_port: Annotated[int, _port("Port of the metrics API.")] = 8082,
    http_workers: Annotated[
        int,
        typer.Option(
            min=1, max=64, help="Processes that terminate HTTP, for models that outrun one."
        ),
    ] = 1,
    enable_model_api: Annotated[
        bool, typer.Option("--enable-model-api", help="Let clients register and remove models.")
    ] = False,
    token_auth: Annotated[
        bool | None,
        typer.Option(
            help="Ask clients for the tokens in key_file.json"
            " [default: where other machines can connect]."
        ),
    ] = None,
    require_signed: Annotated[
        RequireSigned,
        typer.Option(help="Models without a trusted signature: serve, serve and warn, or refuse."),
    ] = "warn",
    trusted_keys: Annotated[
        Path | None,
        typer.Option(help="Public keys and certificates (PEM) whose signatures count."),
    ] = None,
    log_folder: Annotated[
        Path | None, typer.Option(help="Write log files here, besides the console.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings only.")] = False,
) -> None:
    """Serve a model and print a curl line that works.

    The task is read from the model's config.json. Nothing is copied: a folder is served in place.
    """
    set_up_logging(log_folder, level=logging.WARNING if quiet else logging.INFO)
    choices = Choices(
        task=task,
        output=output,
        max_length=max_length,
        engine=engine,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        revision=revision,
    )
    inference = Address(host, port)
    config = ServerConfig(
        inference_address=inference,
        management_address=Address(port=management_port),
        metrics_address=Address(port=metrics_port),
        http_workers=http_workers,
        enable_model_api=enable_model_api,
        disable_token_authorization=inference.loopback if token_auth is None else not token_auth,
        require_signed=require_signed,
        trusted_keys=trusted_keys,
        cache_dir=default_cache_dir(),
    )
    policy = signature_policy(config)
    policy.check()
    with early_zygote(config) as zygote:  # imports while the model is fetched or unpacked
        target = resolve(model, name, choices, config.cache_dir, policy)
        if target.light:
            zygote.abandon()
        config = msgspec.structs.replace(config, model_store=target.path.parent)
        _run(config, target, workers, batch_size, None if target.light else zygote)


def _run(
    config: ServerConfig,
    target: Target,
    workers: int | None,
    batch_size: int | None,
    zygote: "Zygote | None",
) -> None:
    """Serve one target until Ctrl-C. Raises the `FlambeauError` of a model that cannot be loaded."""
    from flambeau.server import Server, serve  # half a second, while the zygote starts
    from flambeau.serving.options import Registration

    failure: list[FlambeauError] = []

    async def started(running: Server) -> None:
        _say(f"Loading {target.name} …")
        registration = Registration(
            str(target.path),
            model_name=target.name,
            batch_size=batch_size,
            initial_workers=workers,
            at_startup=True,
        )
        try:
            await running.core.management.register(registration, wait=True)
        except FlambeauError as error:
            if not running.stopping:
                failure.append(error)
                running.stop()
        else:
            _announce(running, target)

    serve(config, started, import_ahead=not target.light, zygote=zygote)
    if failure:
        raise failure[0]


def _announce(running: "Server", target: Target) -> None:
    base = str(running.address("inference_address"))
    info = running.core.registry.get(target.name).info
    example = example_curl(base, target.name, info.get("task"), info.get("example"))
    if not running.config.disable_token_authorization:
        example = f'{_READ_KEY_FILE}\n  {example} -H "Authorization: Bearer $TOKEN"'
    _say(
        f"\nServing {target.name}" + (f" ({info['task']})" if "task" in info else ""),
        f"  predictions  {base}/predictions/{target.name}",
        f"  health       {base}/ping",
        f"  management   {running.address('management_address')}/models",
        f"  metrics      {running.address('metrics_address')}/metrics",
        "",
        f"Try it:\n  {example}",
        "\nCtrl-C stops the server.",
    )


def example_curl(base: str, name: str, task: str | None, own: str | None = None) -> str:
    """A command that works for this task. `own`: the task's example, where the model has its own."""
    url = f"{base}/predictions/{name}"
    if task is None:
        return f"curl {url} -T sample_input"
    try:
        example = own or load_task(task).example
    except (ConfigError, KeyError):
        example = "Flambeau carries the torch on."
    if isinstance(example, str):
        return f"curl {url} -H 'Content-Type: text/plain' -d {shlex.quote(example)}"
    document = json.dumps(msgspec.to_builtins(example))
    return f"curl {url} -H 'Content-Type: application/json' -d {shlex.quote(document)}"


def _say(*lines: str) -> None:
    print("\n".join(lines), file=sys.stdout, flush=True)
