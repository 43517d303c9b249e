"""Forms of a model for ONNX Runtime and OpenVINO: which are wanted, and where they come from."""

from collections.abc import Sequence
from pathlib import Path

import typer

from flambeau.archive.graphs import GRAPH_SUFFIXES, Form, GraphEngine, find_graph, forms_of
from flambeau.archive.model_folder import ModelFolder
from flambeau.cli.child import run_child
from flambeau.cli.targets import Choices, report, task_of
from flambeau.errors import ConfigError
from flambeau.handlers.child_request import encode_request
from flambeau.handlers.export_request import ExportRequest
from flambeau.handlers.settings import PrecisionChoice

_WORKER = "flambeau.handlers.export"
_PURPOSE = "exports the model"


def wanted_forms(engine: str | None, precision: PrecisionChoice | None, added: str) -> list[Form]:
    """The forms that an archive needs for an engine, and for those that are `added` to it.

    `added` are names, separated by commas. Raises `ConfigError` for others than there are.
    """
    names = [name.strip() for name in added.split(",") if name.strip()]
    if engine in GRAPH_SUFFIXES.values():
        names.insert(0, str(engine))
    engines: dict[GraphEngine, None] = {}
    for name in names:
        match name:
            case "onnx" | "openvino":
                engines[name] = None
            case _:
                raise ConfigError(f"--export {name!r} is no such engine. Allowed: onnx, openvino.")
    if precision == "auto":
        return [form for each in engines for form in (Form(each, "fp32"), Form(each, "int8"))]
    forms = [Form(each, precision or "fp32") for each in engines]
    for form in forms:
        if not form.names:
            raise ConfigError(
                f"The engine {form.engine} has no {form.precision}. Allowed:"
                f" {', '.join(forms_of(form.engine))}."
            )
    return forms


def export_forms(
    folder: ModelFolder, choices: Choices, forms: Sequence[Form], place: Path
) -> list[Path]:
    """The graphs of all forms: the folder's own, and what is exported to `place`.

    Raises `typer.Exit` where the child process failed, which has told why.
    """
    own = {form: _own_graph(folder, form) for form in forms}
    missing = tuple(form for form, graph in own.items() if graph is None)
    if missing:
        if folder.weights.suffix not in (".safetensors", ".json", ".bin"):
            raise ConfigError(
                f"{folder.path} has no weights to export from ({folder.weights.name})."
                " Give the model that save_pretrained wrote."
            )
        request = ExportRequest(
            folder=folder.path.resolve(),
            task=task_of(folder, choices.task),
            forms=missing,
            output=place.resolve(),
            max_length=choices.max_length,
        )
        code = run_child(_WORKER, encode_request(request), _PURPOSE)
        if code:
            raise typer.Exit(code)
    for graph in own.values():
        if graph is not None:
            report(f"Taking {graph.relative_to(folder.path)} as it is")
    return [graph or place / form.names[0] for form, graph in own.items()]


def _own_graph(folder: ModelFolder, form: Form) -> Path | None:
    """A folder's own graph, if it is of the engine's own format."""
    graph = find_graph(folder.path, form)
    return graph if graph is not None and graph.suffix == Path(form.names[0]).suffix else None
