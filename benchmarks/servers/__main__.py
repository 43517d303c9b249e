"""Flambeau against its peers: requests per CPU second, throughput and latency, same model and texts.

    python -m benchmarks.servers [--quick] [--systems flambeau,torchserve,…] [--rounds N] [--cores 0]

In each round every system is started, asked for labels that are known, put under load by 1, 8 and
32 clients (closed loop) and ended; the order turns from round to round. Figures are medians over
the rounds. CPU is that of the server's whole process tree. A system that does not install or run
has its reason in the table.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from benchmarks import models
from benchmarks.report import Cell, Report, add_arguments, output_folder
from benchmarks.servers.environments import UnavailableError, versions_in
from benchmarks.servers.in_process import LATENCY_MIX, Alone, measure
from benchmarks.servers.running import Running, end_on_signals, running
from benchmarks.servers.systems import SYSTEMS
from flambeau.bench.load import Load
from flambeau.bench.outcome import Outcome
from flambeau.bench.svg import bar_chart

CLIENTS = (1, 8, 32)
TEXTS = 512
DEFAULT = "flambeau,torchserve,fastapi,litserve,ray,mlserver,infinity"
QUICK = "flambeau,torchserve,litserve"


class Visit(NamedTuple):
    """What one system showed in one round.

    Of Flambeau with torch also the latency of a lone client with texts of one length (`fixed`), and what the
    handler does without a server.
    """

    agreement: float
    outcomes: dict[int, Outcome]
    fixed: Outcome | None = None
    alone: dict[str, Alone] = {}  # noqa: RUF012 - never changed


def main() -> int:
    """Run it; 1 if a system other than a peer could not be measured."""
    arguments = _arguments()
    names = arguments.systems.split(",")
    unknown = ", ".join(sorted(set(names) - set(SYSTEMS)))
    if unknown:
        print(f"no such system: {unknown}. There are {', '.join(SYSTEMS)}.", file=sys.stderr)
        return 2
    end_on_signals()
    models.model(arguments.shape)
    visits: dict[str, list[Visit]] = defaultdict(list)
    reasons: dict[str, str] = {}
    report = Report("servers", "Flambeau against its peers, as servers", _text(arguments))
    for turn in range(arguments.rounds):
        for name in names[:: 1 if turn % 2 == 0 else -1]:
            if name not in reasons:
                try:
                    visits[name].append(_visit(name, arguments))
                except UnavailableError as error:
                    reasons[name] = str(error)
                    print(f"{name}: {error}", file=sys.stderr, flush=True)
    _fill(report, arguments.shape, names, visits, reasons)
    report.write(output_folder(arguments))
    return int(any(name.startswith("flambeau") for name in reasons))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.servers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument("--systems", help=f"[default: {DEFAULT}; with --quick {QUICK}]")
    parser.add_argument("--rounds", type=int, help="[default: 3; with --quick 1]")
    parser.add_argument("--seconds", type=float, help="of each load [default: 15; quick 3]")
    parser.add_argument("--shape", choices=models.SHAPES, help="[default: bert-base; quick minilm]")
    parser.add_argument("--cores", default="", help="servers run on these, as for taskset [all]")
    arguments = parser.parse_args()
    quick = arguments.quick
    arguments.systems = arguments.systems or (QUICK if quick else DEFAULT)
    arguments.shape = arguments.shape or ("minilm" if quick else "bert-base")
    arguments.rounds = arguments.rounds or (1 if quick else 3)
    arguments.seconds = arguments.seconds or (3.0 if quick else 15.0)
    return arguments


def _text(arguments: argparse.Namespace) -> str:
    return (
        f"{arguments.shape}, random weights, texts of {models.MIX} tokens. Closed loop of"
        f" {', '.join(map(str, CLIENTS))} clients, {arguments.seconds:g} s each after a warm-up,"
        f" medians of {arguments.rounds} round(s), systems in turn. CPU seconds are those of the"
        " server's whole process tree; the client runs on the same machine and is not in them."
        f" Servers run on {'cores ' + arguments.cores if arguments.cores else 'all cores'}."
        " `python -m benchmarks.servers`."
    )


def _visit(name: str, arguments: argparse.Namespace) -> Visit:
    with running(SYSTEMS[name], arguments.shape, arguments.cores) as server:
        agreement = _agreement(server, arguments.shape)
        requests = server.requests(models.texts(TEXTS))
        outcomes = {}
        for clients in CLIENTS:
            warm_up = min(3.0, arguments.seconds / 3)
            load = Load(clients=clients, duration=arguments.seconds, warm_up=warm_up)
            outcomes[clients] = server.load(load, requests)
            _say(name, clients, outcomes[clients], agreement)
        handler = SYSTEMS[name].handler
        if (
            not name.startswith("flambeau") or "engine" in handler
        ):  # an export is no folder of weights
            return Visit(agreement, outcomes)
        texts = models.texts(TEXTS, LATENCY_MIX)
        load = Load(clients=1, duration=arguments.seconds, warm_up=0.5)
        fixed = server.load(load, server.requests(texts))
    alone = measure(arguments.shape, arguments.seconds, handler, arguments.cores)
    return Visit(agreement, outcomes, fixed, alone)


def _say(name: str, clients: int, outcome: Outcome, agreement: float) -> None:
    print(
        f"{name:18} {clients:3} clients: {outcome.throughput:7.1f} requests/s,"
        f" CPU {outcome.server_cpu_ms or 0:7.1f} ms a request,"
        f" p50 {outcome.latency_ms.get('p50', 0):8.1f} ms, labels {agreement:.0%},"
        f" errors {outcome.errors or 'none'}",
        flush=True,
    )


def _agreement(server: Running, shape: str) -> float:
    """The share of the known labels that the server answers."""
    checks = models.checks(shape)
    with ThreadPoolExecutor(8) as threads:  # together, as they will be under load
        answers = list(threads.map(lambda check: server.ask(check.text), checks))
    same = [
        answer.status == 200 and server.system.label(answer.body) == check.label
        for answer, check in zip(answers, checks, strict=True)
    ]
    return sum(same) / len(same)


def _fill(
    report: Report,
    shape: str,
    names: Sequence[str],
    visits: dict[str, list[Visit]],
    reasons: dict[str, str],
) -> None:
    measured = [name for name in names if visits.get(name)]
    report.table(
        "Systems",
        ["system", "settings", "versions", "same labels", "result"],
        [_system_row(name, visits.get(name, []), reasons) for name in names],
        f"Same labels: of {len(models.checks(shape))} texts of up to 150 tokens,"
        " compared with transformers computing each alone.",
    )
    base = "torchserve" if "torchserve" in measured else (measured or [""])[0]
    for clients in CLIENTS:
        rows = [_load_row(name, visits, clients, base) for name in measured]
        columns = ["system", "CPU ms a request", "requests per CPU second", f"against {base}"]
        columns += ["requests/s", "p50 ms", "p99 ms", "client CPU ms", "errors"]
        report.table(f"{clients} client{'s' if clients > 1 else ''}", columns, rows)
    _add_alone(
        report, [name for name in measured if all(each.alone for each in visits[name])], visits
    )
    several = CLIENTS[1:]
    bars = {
        SYSTEMS[name].title: {
            f"{clients} clients": _median(visits[name], clients, "server_cpu_ms")
            for clients in several
        }
        for name in measured
    }
    report.chart(bar_chart("CPU time of the server for one request", bars, y="ms"))
    report.data["rounds"] = {
        name: [
            {"agreement": each.agreement, "outcomes": _documents(each.outcomes)}
            for each in visits[name]
        ]
        for name in measured
    }


def _add_alone(report: Report, names: Sequence[str], visits: dict[str, list[Visit]]) -> None:
    """What the server adds to its own handler."""
    if not names:
        return
    rows: list[list[Cell]] = []
    for name in names:
        cpu = {
            key: statistics.median(each.alone[key].cpu_ms for each in visits[name])
            for key in visits[name][0].alone
        }
        p50 = statistics.median(each.alone["fixed"].p50_ms for each in visits[name])
        served = statistics.median(
            each.fixed.latency_ms.get("p50", 0.0) for each in visits[name] if each.fixed
        )
        many = _median(visits[name], 32, "server_cpu_ms")
        share = f"{cpu['32'] / many:.0%}" if many else None
        title = SYSTEMS[name].title
        rows.append([title, cpu["1"], cpu["8"], cpu["32"], many, share, p50, served, served - p50])
    columns = ["system", "1 at a time", "8", "32", "server, 32 clients", "server against 32"]
    columns += ["p50 ms alone", "p50 ms served", "added ms"]
    report.table(
        "The handler in process, without a server",
        columns,
        rows,
        "CPU ms a request; `server against 32` compares requests per CPU second. The p50 are of one"
        f" client (one call) at a time with texts of one length, `{LATENCY_MIX}`.",
    )
    report.data["alone"] = {
        name: [{key: each._asdict() for key, each in visit.alone.items()} for visit in visits[name]]
        for name in names
    }


def _documents(outcomes: dict[int, Outcome]) -> dict[str, object]:
    return {
        str(clients): {key: value for key, value in outcome.document().items() if key != "curve"}
        for clients, outcome in outcomes.items()
    }


def _system_row(name: str, visits: list[Visit], reasons: dict[str, str]) -> list[Cell]:
    system = SYSTEMS[name]
    agreement = f"{min(each.agreement for each in visits):.1%}" if visits else None
    used = versions_in(system.environment)
    return [system.title, system.settings, used, agreement, reasons.get(name, "measured")]


def _load_row(name: str, visits: dict[str, list[Visit]], clients: int, base: str) -> list[Cell]:
    def median(figure: str) -> float:
        return _median(visits[name], clients, figure)

    theirs = _median(visits[base], clients, "per_cpu_second")
    errors = sum(sum(each.outcomes[clients].errors.values()) for each in visits[name])
    return [
        SYSTEMS[name].title,
        median("server_cpu_ms"),
        median("per_cpu_second"),
        f"{median('per_cpu_second') / theirs:.2f}x" if theirs else None,
        median("throughput"),
        statistics.median(each.outcomes[clients].latency_ms.get("p50", 0) for each in visits[name]),
        statistics.median(each.outcomes[clients].latency_ms.get("p99", 0) for each in visits[name]),
        median("client_cpu_ms"),
        errors,
    ]


def _median(visits: Sequence[Visit], clients: int, figure: str) -> float:
    return statistics.median(getattr(each.outcomes[clients], figure) or 0.0 for each in visits)


if __name__ == "__main__":
    sys.exit(main())
