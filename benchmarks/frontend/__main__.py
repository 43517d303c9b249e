"""CPU time per small request, of the server process and of its front-end processes.

    python -m benchmarks.frontend [--quick] [--against LABEL=SOURCES]

An echo handler, closed loops of 1 and 16 keep-alive connections from a process of its own, served by
the server process and by two front-end processes. `--against` compares with other sources of
Flambeau, for example those of an older checkout.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.frontend.servers import Server, Variant, running
from benchmarks.report import Report, add_arguments, output_folder

WARM_SECONDS = 1.0
LOOP_TURNS = 300_000
COLUMNS = {
    "requests_per_s": "requests/s",
    "server_us": "server process, µs/request",
    "front_ends_us": "front ends, µs/request",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "loop_ns": "loop, ns",
}

Figures = dict[str, float]
Found = dict[tuple[int, str], list[Figures]]


def main() -> None:
    """Run the comparison and write its report."""
    parser = argparse.ArgumentParser(prog="benchmarks.frontend", description=__doc__)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, default=2, help="length of a load run")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--http-workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--against", action="append", default=[], metavar="LABEL=SOURCES")
    add_arguments(parser)
    arguments = parser.parse_args()
    rounds = arguments.rounds or (2 if arguments.quick else 7)
    size = arguments.batch_size
    variants = [
        Variant(f"http_workers={count}", f"http_workers={count}" if count > 1 else "", "", size)
        for count in arguments.http_workers
    ]
    variants += [Variant(label, "", path, size) for label, path in map(_pair, arguments.against)]
    report = Report(
        "frontend",
        "The front end's own cost",
        f"An echo handler answers 30 bytes, batches of at most {size}, TorchServe's default logs and"
        " metrics on. CPU time is the process's user and system time, divided by the requests that"
        f" were answered. Medians of {rounds} rounds of {arguments.seconds:g} s; systems take turns.",
    )
    found = compare(variants, arguments.connections, rounds, arguments.seconds)
    rows = [
        [label, count, *(statistics.median(each[key] for each in runs) for key in COLUMNS)]
        for (count, label), runs in sorted(found.items())
    ]
    report.table(
        "Per request",
        ["system", "connections", *COLUMNS.values()],
        rows,
        "`loop` is the CPU time of one turn of an empty Python loop beside each run: where it is"
        " high, neighbours on the machine make every instruction slower.",
    )
    report.data["runs"] = [
        {"connections": count, "system": label, **each}
        for (count, label), runs in found.items()
        for each in runs
    ]
    report.write(output_folder(arguments))


def compare(variants: list[Variant], connections: list[int], rounds: int, seconds: float) -> Found:
    """Figures of each run, by number of connections and system."""
    found: Found = {}
    with tempfile.TemporaryDirectory(prefix="frontend-") as folder, contextlib.ExitStack() as stack:
        servers = {
            each.label: stack.enter_context(running(each, Path(folder, each.label)))
            for each in variants
        }
        for server in servers.values():
            _load(server, 16, WARM_SECONDS)
        for number in range(rounds):
            for count in connections:
                for label, server in servers.items():
                    figures = _measure(server, count, seconds)
                    found.setdefault((count, label), []).append(figures)
                    print(number, label, count, _shown(figures), file=sys.stderr)
    return found


def _measure(server: Server, connections: int, seconds: float) -> Figures:
    loop = _loop_ns()
    core, front = server.core_seconds(), server.front_end_seconds()
    result = _load(server, connections, seconds)
    loop = (loop + _loop_ns()) / 2
    per_request = 1e6 / result["requests"]
    return {
        "requests_per_s": result["requests"] / result["seconds"],
        "server_us": (server.core_seconds() - core) * per_request,
        "front_ends_us": (server.front_end_seconds() - front) * per_request,
        "p50_ms": result["p50_ms"],
        "p99_ms": result["p99_ms"],
        "loop_ns": loop,
    }


def _loop_ns() -> float:
    """CPU time of one turn of an empty loop: how fast this machine is right now."""
    started = time.process_time()
    for _ in range(LOOP_TURNS):
        pass
    return (time.process_time() - started) / LOOP_TURNS * 1e9


def _load(server: Server, connections: int, seconds: float) -> Figures:
    command = [sys.executable, "-m", "benchmarks.frontend.load", server.url]
    command += ["--connections", str(connections), "--seconds", str(seconds)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: Figures = json.loads(output)
    return figures


def _shown(figures: Figures) -> str:
    return " ".join(f"{key}={value:.1f}" for key, value in figures.items())


def _pair(text: str) -> tuple[str, str]:
    label, _, path = text.partition("=")
    return label, str(Path(path).resolve())


if __name__ == "__main__":
    main()
