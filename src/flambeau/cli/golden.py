"""`flambeau pack --golden`: has the model answer the samples in a child process, and packs the answers."""

from pathlib import Path

import msgspec
import typer

from flambeau.archive.golden import GOLDEN_PATH
from flambeau.archive.model_folder import ModelFolder, folder_request
from flambeau.archive.pack import PackRequest, stage
from flambeau.archive.yaml_config import read_yaml
from flambeau.cli.child import run_child
from flambeau.cli.targets import Choices, settings_of
from flambeau.handlers.child_request import encode_request
from flambeau.handlers.golden_request import GoldenRequest

_WORKER = "flambeau.handlers.golden_answers"
_PURPOSE = "answers the golden samples"

_TORCH_WEIGHTS = (".safetensors", ".json", ".bin")
_EXACT = {"engine": "torch", "precision": "fp32"}


def reference_request(
    folder: ModelFolder, request: PackRequest, choices: Choices, place: Path
) -> PackRequest | None:
    """The request for an archive that gives the exact answers: of the weights, in torch's fp32.

    None where there are no weights for torch: then the archive's own answers count.
    """
    if folder.weights.suffix not in _TORCH_WEIGHTS:
        return None
    document = _document(request) or settings_of(folder, choices)
    handler = document.get("handler")
    section = dict(handler) if isinstance(handler, dict) else {}
    scratch = place / "reference-settings"
    scratch.mkdir()
    return folder_request(
        folder,
        msgspec.structs.replace(request, config_file=None),
        document | {"handler": section | _EXACT},
        scratch,
    )


def with_golden(
    request: PackRequest, reference: PackRequest | None, samples: Path, place: Path
) -> PackRequest:
    """`request` with the answers that the reference gives, or the samples name, as golden outputs.

    What serves another form of the model is loaded as a server would do it, so that no archive is
    written that cannot become ready. Raises `typer.Exit` where the child process failed, which has
    told why.
    """
    archive = stage(request, place / "archive")
    answers = place / GOLDEN_PATH.name
    code = run_child(
        _WORKER,
        encode_request(
            GoldenRequest(
                samples=samples,
                reference=_staged(reference, place / "reference") or archive,
                archive=archive if reference is None or not _is_exact(request) else None,
                output=answers.resolve(),
            )
        ),
        _PURPOSE,
    )
    if code:
        raise typer.Exit(code)
    return msgspec.structs.replace(request, golden=answers)


def _staged(request: PackRequest | None, folder: Path) -> Path | None:
    return stage(request, folder) if request is not None else None


def _is_exact(request: PackRequest) -> bool:
    """Whether an archive will be served as its reference is, unless it is tuned."""
    handler = _document(request).get("handler")
    section = handler if isinstance(handler, dict) else {}
    default = {"engine": "auto", "precision": "fp32"}
    return all(section.get(key, default[key]) in (value, "auto") for key, value in _EXACT.items())


def _document(request: PackRequest) -> dict[str, object]:
    return read_yaml(request.config_file) if request.config_file is not None else {}
