"""`flambeau tune`: measures which engine and precision suit a model on this machine.

The work is done by a child process (`flambeau.handlers.tune`), since this one never imports a model
framework.
"""

from pathlib import Path
from typing import Annotated

import typer

from flambeau.cli.child import run_child
from flambeau.cli.serve import LengthOption, ModelArgument, RevisionOption, TaskOption
from flambeau.cli.targets import Choices, resolve
from flambeau.config import default_cache_dir, usable_cores
from flambeau.errors import ConfigError
from flambeau.handlers.child_request import encode_request
from flambeau.handlers.settings import PrecisionChoice
from flambeau.handlers.tune_request import TuneRequest

_WORKER = "flambeau.handlers.tune"
_PURPOSE = "measures the engines"


def tune(
    model: ModelArgument,
    texts: Annotated[
        Path | None,
        typer.Option(help="Your own inputs, one per line, as the model's API reads them."),
    ] = None,
    precision: Annotated[
        PrecisionChoice, typer.Option(help="Measure fp32 and this; auto: all there are.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads to measure with [default: all cores].")
    ] = None,
    agreement: Annotated[
        float, typer.Option(min=0, max=1, help="The least share of labels as in fp32.")
    ] = 0.995,
    max_difference: Annotated[
        float, typer.Option(min=0, max=1, help="The most that a probability may differ.")
    ] = 0.1,
    task: TaskOption = None,
    max_length: LengthOption = None,
    revision: RevisionOption = None,
) -> None:
    """Time the engines that a model can run in, compare their answers with fp32 torch's.

    What is found is kept beside the archive (MODEL.tune.json), and engine: auto goes by it on this
    kind of machine. Engines count that are installed and whose form is in the archive: flambeau
    pack --export onnx,openvino adds them.
    """
    if texts is not None and not texts.is_file():
        raise ConfigError(f"There is no file {texts}.")
    choices = Choices(task=task, max_length=max_length, revision=revision)
    target = resolve(model, None, choices, default_cache_dir())
    request = TuneRequest(
        archive=target.path,
        model_dir=target.model_dir.resolve(),
        threads=threads or usable_cores(),
        texts=texts,
        precision=precision,
        agreement=agreement,
        max_difference=max_difference,
    )
    code = run_child(_WORKER, encode_request(request), _PURPOSE)
    if code:
        raise typer.Exit(code)
