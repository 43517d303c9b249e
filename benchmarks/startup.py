"""From the start of a server to its first answer: wall clock and CPU time.

    python -m benchmarks.startup [--quick] [--systems flambeau,torchserve,…] [--rounds N]

Systems take turns. Files are in the page cache: each system is started once before, unless --quick.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from typing import NamedTuple

from benchmarks import models
from benchmarks.report import Report, add_arguments, output_folder
from benchmarks.servers.environments import UnavailableError
from benchmarks.servers.running import end_on_signals, running
from benchmarks.servers.systems import SYSTEMS
from flambeau.bench.processes import proportional_bytes
from flambeau.bench.svg import bar_chart

DEFAULT = "flambeau,flambeau-mar,flambeau-onnx,flambeau-openvino,torchserve"
MIB = 2**20


class Start(NamedTuple):
    """One start: seconds until the first answer, and the memory then."""

    wall: float
    cpu: float
    pss: int


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="benchmarks.startup", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--systems", default=DEFAULT, help="[default: %(default)s]")
    parser.add_argument("--rounds", type=int, help="[default: 5; with --quick 1]")
    parser.add_argument("--shape", choices=models.SHAPES, help="[default: bert-base; quick minilm]")
    arguments = parser.parse_args()
    arguments.shape = arguments.shape or ("minilm" if arguments.quick else "bert-base")
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    end_on_signals()
    models.model(arguments.shape)
    report = Report(
        "startup",
        "From the start of a server to its first answer",
        f"{arguments.shape}; medians of {rounds} start(s) in turn, files in the page cache. CPU"
        " seconds and memory (PSS) are those of the whole process tree at the first answer."
        " Asking begins at once, so the first answer is not missed. `python -m benchmarks.startup`.",
    )
    starts: dict[str, list[Start]] = defaultdict(list)
    reasons: dict[str, str] = {}
    for turn in range(rounds if arguments.quick else rounds + 1):
        for name in arguments.systems.split(","):
            if name not in reasons:
                try:
                    start = _start(name, arguments.shape)
                except UnavailableError as error:
                    reasons[name] = str(error)
                    print(f"{name}: {error}", file=sys.stderr, flush=True)
                    continue
                if arguments.quick or turn > 0:
                    starts[name].append(start)
                print(f"{name:18} {start.wall:6.2f} s, {start.cpu:6.2f} CPU s", flush=True)
    _fill(report, starts, reasons)
    report.write(output_folder(arguments))
    return int("flambeau" in reasons)


def _start(name: str, shape: str) -> Start:
    with running(SYSTEMS[name], shape) as server:
        return Start(server.start_wall, server.start_cpu, proportional_bytes(server.pid))


def _fill(report: Report, starts: dict[str, list[Start]], reasons: dict[str, str]) -> None:
    medians = {
        name: Start(*(statistics.median(figures) for figures in zip(*found, strict=True)))
        for name, found in starts.items()
    }
    base = medians.get("torchserve")
    rows = [
        [
            SYSTEMS[name].title,
            each.wall,
            each.cpu,
            f"{each.wall / base.wall:.2f}x" if base else None,
            f"{each.cpu / base.cpu:.2f}x" if base else None,
            each.pss / MIB,
        ]
        for name, each in medians.items()
    ]
    columns = ["system", "seconds", "CPU seconds", "seconds against TorchServe"]
    report.table("Starts", [*columns, "CPU seconds against TorchServe", "memory, MiB"], rows)
    for name, reason in reasons.items():
        report.note(f"{SYSTEMS[name].title} was not measured: {reason}")
    bars = {
        SYSTEMS[name].title: {"seconds": each.wall, "CPU seconds": each.cpu}
        for name, each in medians.items()
    }
    report.chart(bar_chart("Start to first answer", bars, y="seconds"))
    report.data["starts"] = {
        name: [each._asdict() for each in found] for name, found in starts.items()
    }


if __name__ == "__main__":
    sys.exit(main())
