"""`flambeau doctor`: what will break or change when an archive is served, told beforehand."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flambeau.errors import ArchiveError

if TYPE_CHECKING:
    from flambeau.doctor.findings import Finding, Report

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_WRONG_USAGE = 2
_WIDE = 200


def doctor(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="An archive (.mar, .tar.gz), an unpacked one, or a model store."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read archives, without running them, and say what will break or change.

    Exit code 0: nothing will break; 1: something will; 2: wrong usage. Warnings and notes do not
    count. What is installed in this environment counts: run it where the server will run.
    """
    from flambeau.doctor.environment import check_environment  # 0.3 s that other commands save
    from flambeau.doctor.examine import examine

    try:
        reports = examine(path)
    except ArchiveError as error:
        Console(stderr=True).print(f"flambeau: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(_WRONG_USAGE) from error
    environment = check_environment()
    if as_json:
        document = {"environment": environment, "archives": reports}
        print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    else:
        _show(reports, environment)
    if any(report.count("error") for report in reports):
        raise typer.Exit(1)


def _show(reports: "list[Report]", environment: "list[Finding]") -> None:
    # a file or a pipe has no width, and nothing must be cut in it
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    for finding in environment:
        console.print(_line(finding), soft_wrap=True)
    if len(reports) > 1:
        console.print(_table(reports))
    for report in reports:
        console.print(_heading(report), soft_wrap=True)
        for finding in report.findings:
            console.print(_line(finding), soft_wrap=True)
        if not report.findings:
            console.print("  nothing to report")


def _table(reports: "list[Report]") -> Table:
    """One line per archive; counts first, so that a narrow terminal cuts names alone."""
    table = Table(box=None)
    for count in ("errors", "warnings", "notes"):
        table.add_column(count, justify="right", min_width=len(count))
    for name in ("archive", "answered by"):
        table.add_column(name, no_wrap=True)
    for report in reports:
        errors = report.count("error")
        table.add_row(
            Text(str(errors), style="bold red" if errors else ""),
            str(report.count("warning")),
            str(report.count("note")),
            Text(report.archive),
            Text(report.served.partition(" (")[0]),
        )
    return table


def _heading(report: "Report") -> Text:
    name = f"{report.model} {report.version}, " if report.model else ""
    return Text.assemble("\n", (report.archive, "bold"), f": {name}answered by {report.served}")


def _line(finding: "Finding") -> Text:
    """One line: how bad, where, what, and what to do."""
    parts = [
        ("  ", ""),
        (f"{finding.severity:<8}", _STYLES[finding.severity]),
        (f"{finding.where}: " if finding.where else "", "bold"),
        (finding.what, ""),
        (f" {finding.advice}" if finding.advice else "", "dim"),
    ]
    return Text.assemble(*parts)
