"""What every benchmark writes: the machine, the figures as JSON, tables as Markdown, charts as SVG.

report = Report("engine", "The engine alone", "How it was measured, in a sentence or two.")
report.table("Tokens per CPU second", ["system", "tokens/s"], [["packed", 440.0]])
report.chart(bar_chart("…", {…}, y="tokens/s"))
report.data["runs"] = [...]          # whatever else belongs into the JSON
report.write(folder)                 # <folder>/engine.json, engine.md, engine.svg, engine-2.svg …
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from flambeau.config.machine import usable_cores

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / "docs" / "benchmarks"
QUICK = ROOT / ".cache" / "benchmarks"
"""Where a `--quick` run writes, so that it never replaces figures that were measured in full."""

Cell = str | int | float | None

_X86 = {"avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"}
_FLAGS = _X86 | {"amx_tile", "amx_int8", "amx_bf16"} | {"asimd", "asimddp", "i8mm", "bf16", "sve"}
"""What decides how fast a matrix product is."""
_PACKAGES = ("torch", "transformers", "tokenizers", "onnxruntime", "openvino", "uvicorn", "uvloop")


class Table(NamedTuple):
    """A table of the report; `note` is printed under it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str


class Report:
    """Collects what a benchmark found. Raises `ValueError` for a row that does not fit its table."""

    def __init__(self, name: str, title: str, text: str) -> None:
        self.name, self.title, self.text = name, title, text
        self.machine = machine()
        self.data: dict[str, object] = {}
        self._tables: list[Table] = []
        self._charts: list[str] = []
        self._notes: list[str] = []

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], note: str = ""
    ) -> None:
        """Add a table. Floats are shown with three digits, None as -."""
        if any(len(row) != len(columns) for row in rows):
            raise ValueError(f"a row of {title!r} has not {len(columns)} cells")
        self._tables.append(Table(title, columns, rows, note))

    def chart(self, svg: str) -> None:
        """Add a chart, see `flambeau.bench.svg`."""
        self._charts.append(svg)

    def note(self, text: str) -> None:
        """Add a paragraph at the end: what fell short, what could not be measured and why."""
        self._notes.append(text)

    def markdown(self) -> str:
        """The page."""
        parts = [f"# {self.title}", self.text]
        parts += [f"![{self.title}]({name})" for name in self._chart_names()]
        for table in self._tables:
            parts += [f"## {table.title}", _markdown_table(table)]
            parts += [table.note] if table.note else []
        parts += self._notes
        parts += ["## Machine and versions", *_describe(self.machine)]
        return "\n\n".join(parts) + "\n"

    def document(self) -> dict[str, object]:
        """The same as JSON, with all that the benchmark put into `data`."""
        tables = [
            {
                "title": each.title,
                "rows": [dict(zip(each.columns, row, strict=True)) for row in each.rows],
            }
            for each in self._tables
        ]
        head = {"name": self.name, "title": self.title, "text": self.text, "notes": self._notes}
        return {**head, "machine": self.machine, "tables": tables, "data": self.data}

    def write(self, folder: Path) -> None:
        """Write the files, print the page and say where it lies."""
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{self.name}-[0-9].svg"):
            old.unlink()
        (folder / f"{self.name}.json").write_text(json.dumps(self.document(), indent=1) + "\n")
        (folder / f"{self.name}.md").write_text(self.markdown())
        for name, svg in zip(self._chart_names(), self._charts, strict=True):
            (folder / name).write_text(svg)
        print(f"\n{self.markdown()}\nWritten: {folder / self.name}.md, .json", flush=True)

    def _chart_names(self) -> list[str]:
        count = len(self._charts)
        return [
            f"{self.name}{f'-{index}' if index > 1 else ''}.svg" for index in range(1, count + 1)
        ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that all benchmarks have."""
    parser.add_argument("--quick", action="store_true", help="a minute or two, rough figures")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for the results [default: docs/benchmarks; with --quick .cache/benchmarks]",
    )


def output_folder(arguments: argparse.Namespace) -> Path:
    """Where this run's files go."""
    chosen: Path | None = arguments.output
    return chosen or (QUICK if arguments.quick else PUBLISHED)


def machine() -> dict[str, object]:
    """What the figures depend on: processor, memory, system, versions, commit, date, other load."""
    cpu, flags = _processor()
    described: dict[str, object] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "cpu": cpu,
        "cores": usable_cores(),
        "flags": sorted(_FLAGS & flags),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": versions(_PACKAGES),
    }
    gpu = _output(
        "nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"
    )
    return described | ({"gpu": gpu.splitlines()} if gpu else {})


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of those packages that are installed here."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _processor() -> tuple[str, set[str]]:
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    model = fields.get("model name") or platform.processor() or platform.machine()
    numbers = (
        f" (family {fields['cpu family']}, model {fields['model']})" if "model" in fields else ""
    )
    return model + numbers, set((fields.get("flags") or fields.get("Features") or "").split())


def _commit() -> str:
    commit = _output("git", "rev-parse", "--short=10", "HEAD")
    return commit + ("+" if commit and _output("git", "status", "--porcelain") else "")


def _output(*command: str) -> str:
    """What a command prints; "" where it is not there or fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _describe(about: dict[str, object]) -> list[str]:
    lines = []
    for key, value in about.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {version}" for name, version in value.items())
        elif isinstance(value, list):
            value = " ".join(value) or "none that matter"
        lines.append(f"- {key.replace('_', ' ')}: {value}")
    return ["\n".join(lines)]


def _markdown_table(table: Table) -> str:
    numbers = [
        all(not isinstance(row[at], str) for row in table.rows) for at in range(len(table.columns))
    ]
    lines = [list(table.columns), ["---:" if number else "---" for number in numbers]]
    lines += [[_show(cell) for cell in row] for row in table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _show(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return str(cell).replace("|", "\\|")
