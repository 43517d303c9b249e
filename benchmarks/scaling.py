"""How a server's throughput and latency change with load, text length, model, models and workers.

    python -m benchmarks.scaling [--quick] [--parts load,length,size,models,workers]
                                 [--systems flambeau,torchserve]

`load` finds the peak in a closed loop, then offers fractions of it in an open one (Poisson). The
other parts are closed loops. `--systems` take part in `load`; the rest is Flambeau's.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks import models
from benchmarks.report import Cell, Report, add_arguments, output_folder
from benchmarks.servers.environments import UnavailableError
from benchmarks.servers.running import Running, end_on_signals, running
from benchmarks.servers.systems import SYSTEMS
from flambeau.bench.load import Load
from flambeau.bench.outcome import Outcome
from flambeau.bench.svg import line_chart

FRACTIONS = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)
QUICK_FRACTIONS = (0.4, 0.7, 1.1)
LENGTHS = (8, 16, 32, 64, 128, 256)
QUICK_LENGTHS = (16, 128)
COUNTS = (1, 2, 4)
CLIENTS = 16
PEAK_CLIENTS = 32
TEXTS = 512
UNLOADED = "one client"


class Setting(NamedTuple):
    """What all parts need to know."""

    report: Report
    shape: str
    seconds: float
    quick: bool
    systems: list[str]

    def load(self, clients: int = CLIENTS, rate: float | None = None) -> Load:
        """A load of this run's length."""
        warm_up = min(3.0, self.seconds / 3)
        return Load(clients=clients, rate=rate, duration=self.seconds, warm_up=warm_up)


def main() -> int:
    """Run it; 1 if a part could not be measured."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument("--parts", default=",".join(PARTS), help="[default: all]")
    parser.add_argument("--systems", default="flambeau", help="of `load` [default: flambeau]")
    parser.add_argument("--shape", choices=models.SHAPES, help="[default: bert-base; quick minilm]")
    parser.add_argument("--seconds", type=float, help="of each load [default: 20; quick 3]")
    arguments = parser.parse_args()
    shape = arguments.shape or ("minilm" if arguments.quick else "bert-base")
    seconds = arguments.seconds or (3.0 if arguments.quick else 20.0)
    end_on_signals()
    models.model(shape)
    report = Report(
        "scaling",
        "Throughput and latency against load, length, size and number",
        f"{shape} unless said otherwise, texts of {models.MIX} tokens, {seconds:g} s a load after a"
        " warm-up. Open loops count latency from when a request was due."
        " `python -m benchmarks.scaling`.",
    )
    setting = Setting(report, shape, seconds, arguments.quick, arguments.systems.split(","))
    status = 0
    for part in arguments.parts.split(","):
        try:
            PARTS[part](setting)
        except UnavailableError as error:
            report.note(f"`{part}` was not measured: {error}")
            print(f"{part}: {error}", file=sys.stderr, flush=True)
            status = 1
    report.write(output_folder(arguments))
    return status


def measure_load(setting: Setting) -> None:
    """p99 at fractions of the peak."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for name in setting.systems:
        with running(SYSTEMS[name], setting.shape) as server:
            requests = server.requests(models.texts(TEXTS))
            peak = _say("peak", server.load(setting.load(PEAK_CLIENTS), requests))
            alone = _say(UNLOADED, server.load(setting.load(1), requests))
            steps = []
            for fraction in QUICK_FRACTIONS if setting.quick else FRACTIONS:
                load = setting.load(rate=max(0.5, fraction * peak.throughput))
                steps.append((fraction, _say(f"{fraction:.0%}", server.load(load, requests))))
        title = SYSTEMS[name].title
        rows = [_row(f"closed, {PEAK_CLIENTS} clients", peak), _row(UNLOADED, alone)]
        rows += [_row(f"open, {fraction:.0%} of the peak", step) for fraction, step in steps]
        base = alone.latency_ms.get("p99", 0)
        note = ", ".join(
            f"{step.latency_ms.get('p99', 0) / base:.2f}x at {fraction:.0%}"
            for fraction, step in steps
            if base and step.succeeded
        )
        setting.report.table(
            f"{title} against offered load",
            _COLUMNS,
            rows,
            f"p99 against the unloaded p99: {note}.",
        )
        setting.report.data[f"load {name}"] = [
            step.document() for step in (peak, alone, *(step for _, step in steps))
        ]
        for quantile in ("p50", "p99"):
            lines[f"{title} {quantile}"] = [
                (fraction * 100, step.latency_ms[quantile])
                for fraction, step in steps
                if step.succeeded
            ]
    x = "offered load, per cent of the peak"
    setting.report.chart(line_chart("Latency against load", lines, x=x, y="ms", log_y=True))


def measure_length(setting: Setting) -> None:
    """Tokens a second, and CPU a token, at fixed text lengths."""
    rows: list[list[Cell]] = []
    tokens: list[tuple[float, float]] = []
    with running(SYSTEMS["flambeau"], setting.shape) as server:
        for length in QUICK_LENGTHS if setting.quick else LENGTHS:
            requests = server.requests(models.texts(TEXTS, f"fixed:{length}"))
            step = _say(f"{length} tokens", server.load(setting.load(), requests))
            per_second = step.throughput * length
            per_token = (step.server_cpu_ms or 0) / length * 1000
            rows.append([*_row(f"{length} tokens", step), per_second, per_token])
            tokens.append((length, per_second))
    columns = [*_COLUMNS, "tokens/s", "CPU µs a token"]
    setting.report.table(f"Text length, {CLIENTS} clients", columns, rows)
    chart = line_chart("Tokens a second by length", {"Flambeau": tokens}, x="tokens", y="tokens/s")
    setting.report.chart(chart)


def measure_size(setting: Setting) -> None:
    """The shapes of models.py."""
    rows = []
    for shape in ("tiny", "minilm") if setting.quick else models.SHAPES:
        with running(SYSTEMS["flambeau"], shape) as server:
            step = server.load(setting.load(), server.requests(models.texts(TEXTS)))
            rows.append(_row(shape, _say(shape, step)))
    setting.report.table(f"Model size, {CLIENTS} clients", _COLUMNS, rows)


def measure_models(setting: Setting) -> None:
    """Several models in one server, asked in turn: the whole traffic."""
    rows = []
    with running(SYSTEMS["flambeau-mar"], "minilm") as server:
        texts = models.texts(TEXTS)
        paths = ["/predictions/bench"]
        for count in (*COUNTS, *(() if setting.quick else (8,))):
            while len(paths) < count:
                name = f"bench{len(paths)}"
                server.manage(
                    "POST", "/models", url="bench.mar", model_name=name, initial_workers="1"
                )
                paths.append(f"/predictions/{name}")
            requests = [
                server.requests([text], paths[at % count])[0] for at, text in enumerate(texts)
            ]
            step = _say(f"{count} models", server.load(setting.load(), requests))
            rows.append(_row(f"{count} model{'s' if count > 1 else ''}", step))
    setting.report.table(f"MiniLMs in one server, {CLIENTS} clients", _COLUMNS, rows)


def measure_workers(setting: Setting) -> None:
    """Workers of one model."""
    rows = []
    with running(SYSTEMS["flambeau"], setting.shape) as server:
        requests = server.requests(models.texts(TEXTS))
        for count in COUNTS:
            _scale(server, count)
            step = _say(f"{count} workers", server.load(setting.load(PEAK_CLIENTS), requests))
            rows.append(_row(f"{count} worker{'s' if count > 1 else ''}", step))
    setting.report.table(f"Workers, {PEAK_CLIENTS} clients", _COLUMNS, rows)


PARTS: dict[str, Callable[[Setting], None]] = {
    "load": measure_load,
    "length": measure_length,
    "size": measure_size,
    "models": measure_models,
    "workers": measure_workers,
}
_COLUMNS = ("load", "requests/s", "p50 ms", "p90 ms", "p99 ms", "CPU ms a request", "errors")


def _scale(server: Running, count: int) -> None:
    number = str(count)
    server.manage("PUT", "/models/bench", min_worker=number, max_worker=number, synchronous="true")


def _row(name: str, outcome: Outcome) -> list[Cell]:
    latencies: Sequence[Cell] = [outcome.latency_ms.get(key) for key in ("p50", "p90", "p99")]
    errors = sum(outcome.errors.values())
    return [name, outcome.throughput, *latencies, outcome.server_cpu_ms, errors]


def _say(name: str, outcome: Outcome) -> Outcome:
    latency = outcome.latency_ms
    print(
        f"{name:12} {outcome.throughput:8.1f} requests/s, p50 {latency.get('p50', 0):8.1f} ms,"
        f" p99 {latency.get('p99', 0):8.1f} ms, CPU {outcome.server_cpu_ms or 0:6.1f} ms a request,"
        f" errors {outcome.errors or 'none'}",
        flush=True,
    )
    return outcome


if __name__ == "__main__":
    sys.exit(main())
