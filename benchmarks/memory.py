"""Memory of several workers of one model against that of one.

    python -m benchmarks.memory [--quick] [--systems flambeau,torchserve]

PSS (proportional set size) of the server's whole process tree, from /proc/<pid>/smaps_rollup: a
page that n processes share counts 1/n for each. Measured after a load that reached every worker.
"""

import argparse
import sys

from benchmarks import models
from benchmarks.report import Cell, Report, add_arguments, output_folder
from benchmarks.servers.environments import UnavailableError
from benchmarks.servers.running import end_on_signals, running
from benchmarks.servers.systems import SYSTEMS
from flambeau.bench.load import Load
from flambeau.bench.processes import proportional_bytes
from flambeau.bench.svg import bar_chart

WORKERS = (1, 2, 4)
MIB = 2**20


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="benchmarks.memory", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--systems", default="flambeau,torchserve", help="[default: %(default)s]")
    parser.add_argument("--shape", choices=models.SHAPES, help="[default: bert-base; quick minilm]")
    arguments = parser.parse_args()
    arguments.shape = arguments.shape or ("minilm" if arguments.quick else "bert-base")
    end_on_signals()
    size = (models.model(arguments.shape) / "model.safetensors").stat().st_size / MIB
    report = Report(
        "memory",
        "Memory of several workers of one model",
        f"{arguments.shape}, {size:,.0f} MiB of weights. PSS of the server's whole process tree, in"
        " MiB, after a load that reached every worker. `python -m benchmarks.memory`.",
    )
    rows: list[list[Cell]] = []
    bars = {}
    status = 0
    for name in arguments.systems.split(","):
        try:
            found = _measure(name, arguments.shape, 2.0 if arguments.quick else 10.0)
        except UnavailableError as error:
            report.note(f"{SYSTEMS[name].title} was not measured: {error}")
            status |= name.startswith("flambeau")
            continue
        first, last = found[WORKERS[0]], found[WORKERS[-1]]
        further = (last - first) / (WORKERS[-1] - WORKERS[0])
        rows.append([SYSTEMS[name].title, *found.values(), f"{last / first:.2f}x", further])
        bars[SYSTEMS[name].title] = {f"{count} workers": mib for count, mib in found.items()}
    columns = ["system", *(f"{count} worker{'s' if count > 1 else ''}" for count in WORKERS)]
    report.table("PSS, MiB", [*columns, "4 against 1", "each further worker"], rows)
    report.chart(bar_chart("Memory of one model's workers", bars, y="PSS, MiB"))
    report.write(output_folder(arguments))
    return status


def _measure(name: str, shape: str, seconds: float) -> dict[int, float]:
    """MiB for each number of workers."""
    found = {}
    with running(SYSTEMS[name], shape) as server:
        requests = server.requests(models.texts(256))
        for count in WORKERS:
            number = str(count)
            server.manage(
                "PUT", "/models/bench", min_worker=number, max_worker=number, synchronous="true"
            )
            server.load(Load(clients=8 * count, duration=seconds, warm_up=0), requests)
            found[count] = proportional_bytes(server.pid) / MIB
            print(f"{name:18} {count} workers: {found[count]:8.0f} MiB", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
