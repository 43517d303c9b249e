"""`flambeau tune`'s work, in a process of its own: `python -m flambeau.handlers.tune`.

The commands' process never imports a model framework.
"""

import sys

from rich.console import Console
from rich.table import Table

from flambeau.archive.manifest import read_manifest_document
from flambeau.archive.verdict import Candidate, Verdict, write_verdict
from flambeau.archive.yaml_config import read_yaml
from flambeau.handlers.child import read_request, run_quietly, say
from flambeau.handlers.child_request import decode_request
from flambeau.handlers.native_model import Device, load_parts
from flambeau.handlers.settings import PrecisionChoice
from flambeau.handlers.tune_request import TuneRequest

_WIDE = 160


def run(request: TuneRequest) -> None:
    """Measure, print the table, keep the verdict. Raises `FlambeauError`."""
    from flambeau.handlers.tuning import tune

    _set_threads(request.threads)
    manifest = read_manifest_document(request.model_dir) or {}
    model = manifest.get("model")
    name = model.get("configFile") if isinstance(model, dict) else None
    document = read_yaml(request.model_dir / str(name)) if name else {}
    parts = load_parts(
        request.model_dir, manifest, document, device=Device(threads=request.threads)
    )
    verdict = tune(request, parts, say)
    file = write_verdict(request.archive, verdict)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    console.print(_table(verdict))
    for line in _summary(request, verdict, parts.settings.engine, parts.settings.precision):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"Kept in {file}", markup=False, highlight=False, soft_wrap=True)


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _table(verdict: Verdict) -> Table:
    title = f"{verdict.texts} texts, {verdict.threads} threads, {verdict.cpu or 'unknown CPU'}"
    table = Table(title=title, title_justify="left")
    for heading in ("engine", "precision"):
        table.add_column(heading)
    for heading in ("CPU ms/text", "ms/text", "speed", "equal labels", "largest gap", "cosine"):
        table.add_column(heading, justify="right")
    table.add_column("")
    first = verdict.candidates[0]
    for one in verdict.candidates:
        note = "reference" if one is first else "" if one.accepted else "too far off"
        table.add_row(
            one.engine,
            one.precision,
            f"{one.cpu_ms:.2f}",
            f"{one.wall_ms:.2f}",
            f"{first.cpu_ms / one.cpu_ms:.1f}x",
            f"{one.labels:.2%}",
            f"{one.difference:.1g}",
            f"{one.cosine:.5f}",
            note,
        )
    return table


def _summary(
    request: TuneRequest, verdict: Verdict, engine: str, precision: PrecisionChoice | None
) -> list[str]:
    fixed = None if precision == "auto" else precision
    chosen = verdict.best(fixed, any_precision=precision == "auto")
    freest = verdict.best(None, any_precision=True)
    lines = [
        f"Accepted: at least {request.agreement:.1%} of the labels equal, probabilities within"
        f" {request.max_difference:g} (fp32: 0.001)."
    ]
    if engine != "auto":
        lines.append(f"The archive asks for engine: {engine}, which this does not change.")
    elif chosen is not None:
        lines.append(f"From now on engine: auto runs it with {_name(chosen)}.")
    if freest is not None and freest != chosen and precision != "auto":
        lines.append(f"With precision: auto in its configuration it would be {_name(freest)}.")
    return lines


def _name(one: Candidate) -> str:
    return f"{one.engine} in {one.precision}"


def main(argv: list[str] | None = None) -> int:
    """The child process of `flambeau tune`; returns the exit code."""
    request = decode_request(read_request("tune", argv), TuneRequest)
    return run_quietly(lambda: run(request))


if __name__ == "__main__":
    sys.exit(main())
