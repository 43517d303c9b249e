"""CPU time per small request, of the server process and of its further front-end processes.

    python -m benchmarks.frontend [--against LABEL=SOURCES] [--write]

An echo handler, closed loops of 1 and 16 keep-alive connections from a process of its own, with one
and with two front-end processes. Systems take turns, A B A B; figures are medians of the rounds.
`--against` compares with other sources of Flambeau, for example those of an older checkout.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.frontend.servers import Server, Variant, running

FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"
CONNECTIONS = (1, 16)
WARM_SECONDS = 1.0
LIBRARIES = ("uvicorn", "uvloop", "httptools", "msgspec")
COLUMNS = ("requests_per_s", "server_us", "front_ends_us", "p50_ms", "p99_ms")

Figures = dict[str, float]


def main() -> None:
    """Run, print the table, and write it where that is wanted."""
    parser = argparse.ArgumentParser(prog="benchmarks.frontend", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="length of a load run")
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    parser.add_argument("--http-workers", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--against", action="append", default=[], metavar="LABEL=SOURCES")
    parser.add_argument("--write", action="store_true", help=f"write the report into {FOLDER}")
    arguments = parser.parse_args()
    variants = [
        Variant(f"N={count}", f"http_workers={count}" if count > 1 else "")
        for count in arguments.http_workers
    ]
    variants += [Variant(label, "", path) for label, path in map(_pair, arguments.against)]
    rows = compare(variants, arguments.connections, arguments.rounds, arguments.seconds)
    table = _table(rows)
    print(table)
    if arguments.write:
        _write(table, rows, arguments)


def compare(
    variants: list[Variant], connections: list[int], rounds: int, seconds: float
) -> list[dict[str, object]]:
    """Median figures of each variant at each number of connections."""
    found: dict[tuple[str, int], list[Figures]] = {}
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
                    found.setdefault((label, count), []).append(figures)
                    print(number, label, count, _shown(figures), file=sys.stderr)
    return [
        {"system": label, "connections": count}
        | {key: statistics.median(each[key] for each in runs) for key in COLUMNS}
        for (label, count), runs in found.items()
    ]


def _measure(server: Server, connections: int, seconds: float) -> Figures:
    core, front = server.core_seconds(), server.front_end_seconds()
    result = _load(server, connections, seconds)
    per_request = 1e6 / result["requests"]
    return {
        "requests_per_s": result["requests"] / result["seconds"],
        "server_us": (server.core_seconds() - core) * per_request,
        "front_ends_us": (server.front_end_seconds() - front) * per_request,
        "p50_ms": result["p50_ms"],
        "p99_ms": result["p99_ms"],
    }


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


def _table(rows: list[dict[str, object]]) -> str:
    lines = [
        "| system | connections | requests/s | server process, µs/request | front ends, µs/request"
        " | p50, ms | p99, ms |",
        "| --- " * 7 + "|",
    ]
    for row in sorted(rows, key=lambda row: (row["connections"], row["system"])):
        cells = [f"{row[key]:.0f}" for key in COLUMNS[:3]] + [
            f"{row[key]:.2f}" for key in COLUMNS[3:]
        ]
        lines.append(f"| {row['system']} | {row['connections']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _write(table: str, rows: list[dict[str, object]], arguments: argparse.Namespace) -> None:
    about = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": _machine(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("flambeau", *LIBRARIES)},
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    document = json.dumps({**about, "results": rows}, indent=1, ensure_ascii=False)
    (FOLDER / "frontend.json").write_text(document + "\n")
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    (FOLDER / "frontend.md").write_text(
        f"# The front end's own cost\n\n{__doc__.partition('An echo')[1]}"
    )
    del versions


def _machine() -> str:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{models[0]}, {len(models)} cores, {platform.system()} {platform.release()}"


if __name__ == "__main__":
    main()
