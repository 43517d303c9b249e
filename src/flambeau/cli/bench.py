"""`flambeau bench`: put load on a server, any server, and measure what its clients see."""

import datetime
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import httptools
import msgspec
import typer
from rich.console import Console

from flambeau import __version__
from flambeau.bench import show
from flambeau.bench.bodies import PLACEHOLDER, Bodies, make_bodies, read_texts
from flambeau.bench.connection import Target, describe, target_of
from flambeau.bench.lengths import Lengths, make_texts, parse_lengths
from flambeau.bench.load import Load, probe, run_load
from flambeau.bench.outcome import Outcome
from flambeau.bench.processes import cpu_seconds, listening_pid
from flambeau.bench.steps import Sweep, find_peak, parse_sweep, peak_of, with_setting
from flambeau.cli.tokens import TokenOption, authorization, explain
from flambeau.errors import ConfigError, ErrorKind, PredictionError

_DEFAULT_LENGTHS = "lognormal:30,max=256"
_TEXTS = 1000
"""Generated texts; a load that sends more begins again."""
_INTERRUPTED = 130
_ERROR_STATUS = 400
_EXCERPT = 500
_WIDE = 200


class _Run(msgspec.Struct, frozen=True):
    """Everything that the options say about one call."""

    url: str
    target: Target
    load: Load
    bodies: Bodies
    template: str
    sweep: Sweep | None
    find_peak: bool
    most_p99_ms: float | None


def bench(
    url: Annotated[
        str, typer.Argument(help="Where to POST, e.g. http://127.0.0.1:8080/predictions/my_model")
    ],
    clients: Annotated[
        int, typer.Option("--clients", "-c", min=1, help="Closed loop: this many clients.")
    ] = 8,
    rate: Annotated[
        float | None,
        typer.Option("--rate", "-r", min=0.001, help="Open loop: this many requests a second."),
    ] = None,
    arrivals: Annotated[
        Literal["poisson", "uniform"], typer.Option(help="Open loop: at random, or evenly.")
    ] = "poisson",
    duration: Annotated[
        float, typer.Option("--duration", "-d", min=0.1, help="Seconds to measure.")
    ] = 10.0,
    requests: Annotated[
        int | None, typer.Option("--requests", "-n", min=1, help="Measure this many instead.")
    ] = None,
    warm_up: Annotated[
        float, typer.Option(min=0, help="Seconds of load before measuring begins.")
    ] = 1.0,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds after which a request counts as failed.")
    ] = 30.0,
    text: Annotated[str | None, typer.Option(help="Send this text every time.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Send these texts in turn: one a line, or JSONL.")
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            help="Send generated texts with this many words: lognormal:30,max=256, uniform:8-64 or"
            f" fixed:128 [default: {_DEFAULT_LENGTHS}]."
        ),
    ] = None,
    body: Annotated[
        str,
        typer.Option(
            help='Template of the body, such as \'{"inputs": "{text}"}\'; @FILE reads it from there.'
        ),
    ] = PLACEHOLDER,
    content_type: Annotated[
        str | None, typer.Option(help="[default: application/json for JSON, else text/plain]")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="'Name: value'; may be repeated.")
    ] = None,
    token: TokenOption = None,
    pid: Annotated[
        int | None, typer.Option(help="Measure the CPU time of this process and all below it.")
    ] = None,
    server_cpu: Annotated[
        bool,
        typer.Option("--server-cpu", help="The same, of the process that listens at URL's port."),
    ] = False,
    sweep: Annotated[
        str | None,
        typer.Option(
            help="One load after another: rate=10,20,40, clients=1,8,32, words=16,64,256."
        ),
    ] = None,
    peak: Annotated[
        bool,
        typer.Option("--find-peak", help="Double the clients, from 1, until that brings no more."),
    ] = False,
    most_p99: Annotated[
        float | None, typer.Option("--p99", help="--find-peak: the p99 may be this many ms.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the generated texts and the arrivals.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures into this file.")
    ] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Write a plot (SVG) into this file.")
    ] = None,
) -> None:
    """Put load on a server and measure latency, throughput, errors and CPU.

    Any server: URL, body and headers are free. Texts come from --text, --file or --lengths, and
    are put into the --body template. Ctrl-C ends the load and reports what was measured so far.
    """
    swept = parse_sweep(sweep) if sweep else None
    _check_options(swept, rate, peak=peak, most_p99=most_p99, sources=(text, file, lengths))
    load = Load(
        clients=clients,
        rate=rate,
        arrivals=arrivals,
        duration=duration,
        requests=requests,
        warm_up=warm_up,
        timeout=timeout,
        seed=seed,
        server_pid=_server_pid(url, pid, listening=server_cpu),
    )
    template = _read_template(body)
    bodies = make_bodies(_texts(text, file, lengths, seed), template, content_type)
    headers = {"content-type": bodies.content_type} | authorization(token, url, "inference")
    target = target_of(url, headers | _read_headers(header or []))
    run = _Run(url, target, load, bodies, template, swept, peak, most_p99)
    _check(run)
    outcomes, names = _measure(run)
    _report(run, outcomes, names, json_file, plot_file)


def _check_options(
    sweep: Sweep | None,
    rate: float | None,
    *,
    peak: bool,
    most_p99: float | None,
    sources: tuple[object, ...],
) -> None:
    if sum(source is not None for source in sources) > 1:
        raise ConfigError("Give --text, --file or --lengths: only one of them.")
    if peak and (sweep or rate is not None):
        raise ConfigError("--find-peak chooses the load: it goes with neither --sweep nor --rate.")
    if most_p99 is not None and not peak:
        raise ConfigError("--p99 is a limit for --find-peak.")
    if sweep and sweep.setting == "words" and any(source is not None for source in sources):
        raise ConfigError(
            "--sweep words=… generates its texts: leave --text, --file and --lengths out."
        )


def _server_pid(url: str, pid: int | None, *, listening: bool) -> int | None:
    if pid is None and listening:
        parts = urlsplit(url)
        pid = listening_pid(parts.port or (443 if parts.scheme == "https" else 80))
        if pid is None:
            raise ConfigError(
                f"No process of this machine is seen to listen at the port of {url}. Name the"
                " server's process with --pid."
            )
    if pid is not None:
        cpu_seconds(pid)  # says now that there is no such process
    return pid


def _texts(text: str | None, file: Path | None, lengths: str | None, seed: int) -> list[str]:
    if text is not None:
        return [text]
    if file is not None:
        return read_texts(file)
    return make_texts(parse_lengths(lengths or _DEFAULT_LENGTHS), _TEXTS, seed)


def _read_template(body: str) -> str:
    if not body.startswith("@"):
        return body
    try:
        return Path(body[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The body template {body[1:]} cannot be read: {error}.") from error


def _read_headers(given: list[str]) -> dict[str, str]:
    headers = {}
    for line in given:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ConfigError(f"--header {line!r} has not the form 'Name: value'.")
        headers[name.strip().lower()] = value.strip()
    return headers


def _check(run: _Run) -> None:
    """One request first, so that what is wrong with all of them is told in full, once."""
    try:
        answer = probe(run.target, run.bodies.bodies[0], run.load.timeout)
    except (OSError, httptools.HttpParserError) as error:
        raise ConfigError(f"No server answers at {run.url}: {describe(error)}.") from error
    if answer.status >= _ERROR_STATUS:
        said = " ".join(answer.body.decode("utf-8", "replace").split())
        message = explain(answer.status, said[:_EXCERPT] or "no message")
        raise PredictionError(f"{run.url} answers {answer.status}: {message}", ErrorKind.INTERNAL)


def _measure(run: _Run) -> tuple[list[Outcome], list[str]]:
    def one(load: Load, bodies: Bodies = run.bodies) -> Outcome:
        return run_load(load, run.target, [run.target.request(body) for body in bodies.bodies])

    if run.find_peak:
        outcomes = find_peak(run.load, one)
        return outcomes, [show.load_name(outcome) for outcome in outcomes]
    outcomes, names = [], []
    for name, load, bodies in _steps(run):
        outcomes.append(one(load, bodies))
        names.append(name or show.load_name(outcomes[-1]))
        if outcomes[-1].interrupted:
            break
    return outcomes, names


def _steps(run: _Run) -> Iterator[tuple[str, Load, Bodies]]:
    if run.sweep is None:
        yield "", run.load, run.bodies
        return
    for value in run.sweep.values:
        if run.sweep.setting == "words":
            texts = make_texts(Lengths("fixed", value), _TEXTS, run.load.seed)
            bodies = make_bodies(texts, run.template, run.bodies.content_type)
            yield f"{value:g} words", run.load, bodies
        else:
            yield "", with_setting(run.load, run.sweep.setting, value), run.bodies


def _report(
    run: _Run,
    outcomes: list[Outcome],
    names: list[str],
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Print it, write it, and end with the exit code that it deserves."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    several = run.sweep is not None or run.find_peak
    console.print(show.steps_table(outcomes, names) if several else show.single_table(outcomes[0]))
    best = peak_of(outcomes, run.most_p99_ms) if run.find_peak else None
    if best is not None:
        console.print(f"peak: {best.throughput:,.1f} requests/s with {show.load_name(best)}")
    for remark in show.remarks(outcomes):
        console.print(remark, style="dim", soft_wrap=True)
    if json_file is not None:
        document = {
            "url": run.url,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "client": f"flambeau {__version__}",
            "runs": [each.document() for each in outcomes],
            "peak": best and best.document(),
        }
        _write(json_file, msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    if plot_file is not None:
        swept = run.sweep or Sweep(
            "clients", [float(each.load.get("clients", 0)) for each in outcomes]
        )
        of = {"rate": "requests/s due"}.get(swept.setting, swept.setting)
        _write(plot_file, show.plot(outcomes, run.url, swept.values, of).encode())
    if outcomes[-1].interrupted:
        raise typer.Exit(_INTERRUPTED)
    if not any(each.succeeded for each in outcomes):
        print("flambeau: no request was answered with success", file=sys.stderr)
        raise typer.Exit(1)


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}.") from error
