"""Saves a model in a form that an archive can carry: `flambeau prepare`'s work.

Runs in a process of its own, `python -m flambeau.handlers.prepare`, because the commands' process
never imports a model framework. The frameworks are imported late, so that what is wrong with a
request or a network is told at once.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from flambeau import tasks
from flambeau.archive.contents import TOKENIZER_FILES
from flambeau.archive.hub import fetch_model, format_size, snapshot_commit
from flambeau.archive.sentence_files import is_sentence_model, sentence_files
from flambeau.archive.staging import staged_folder
from flambeau.errors import ConfigError, FlambeauError
from flambeau.handlers.child import read_request
from flambeau.handlers.child_request import decode_request
from flambeau.handlers.prepare_request import PrepareRequest
from flambeau.handlers.settings import read_json_object
from flambeau.tasks.base import infer_task
from flambeau.types import TaskName

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from flambeau.handlers.pretrained import Pretrained

TRACED_FILE = "traced_model.pt"
INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""

Report = Callable[[str], None]

_DEFAULT_TRACED_LENGTH = 128
_TOKENIZER_SUFFIX = ".model"
_PICKLE = "pytorch_model.bin"
_MODEL_SUFFIXES = frozenset({".json", ".safetensors", ".bin", ".pt", ".txt", ".model", ".jinja"})


class Interruption:
    """Ends this process when it is told to, wherever it is: a library's import may swallow a
    `KeyboardInterrupt`, or make another error of it.

    `hold` puts it off: a stage is being made, or is complete and takes its target's place.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._stage: Path | None = None
        self._held = False
        self._told = False

    def hold(self) -> None:
        """Only remember from now on that the end was asked for."""
        self._held = True

    def release(self, stage: Path) -> None:
        """End from now on, and remove `stage` then; at once, if it was asked for before."""
        self._stage, self._held = stage, False
        if self._told:
            self._leave()

    def on_signal(self, _number: int, _frame: object) -> None:
        """A signal's handler."""
        self._told = True
        if not self._held:
            self._leave()

    def _leave(self) -> NoReturn:
        if self._stage is not None:
            shutil.rmtree(self._stage, ignore_errors=True)
        text = f"flambeau: interrupted; {self._output} is as it was\n"
        os.write(sys.stderr.fileno(), text.encode())  # the stream itself may be in use
        os._exit(INTERRUPTED)


def prepare(
    request: PrepareRequest,
    report: Report = lambda _: None,
    interruption: Interruption | None = None,
) -> Path:
    """Save a model's weights, configuration and tokenizer in `request.output`, and return that.

    `pretrained` writes `model.safetensors`; `torchscript` writes `traced_model.pt`, which was
    compared with the model (`flambeau.handlers.tracing`). Tokenizer files are the source's own
    where it has a `tokenizer.json`. The folder appears complete or not at all; an older one is
    replaced if it holds a model and nothing else. `report` is told, line by line, what is done.
    Raises `ConfigError`, `HubError` or `LoadError`, one line each.
    """
    try:
        _check_output(request.output)
        source = fetch_model(request.model_name, request.revision, report=report)
        if request.output.exists() and source.samefile(request.output):
            raise ConfigError(
                f"The model {source} cannot be saved over itself: choose another --output,"
                " or move the model to another folder and name that."
            )
        task = _pick_task(request, source)
        commit = snapshot_commit(source)
        report(f"Loading {request.model_name}{f' ({commit[:8]})' if commit else ''} for {task}")
        request.output.parent.mkdir(parents=True, exist_ok=True)
        interruption = interruption or Interruption(request.output)  # of which nobody will hear
        interruption.hold()
        with staged_folder(request.output.resolve()) as stage:
            interruption.release(stage)
            _fill(stage, source, task, request, report)
            listing = ", ".join(
                f"{path.relative_to(stage)} ({format_size(path.stat().st_size)})"
                for path in sorted(stage.rglob("*"))
                if path.is_file()
            )
            interruption.hold()
    except OSError as error:
        place = error.filename or request.output
        raise ConfigError(f"{place}: {error.strerror or error}") from error
    report(f"Saved {request.output}: {listing}")
    return request.output


def run(request: PrepareRequest) -> int:
    """Prepare as a command does: progress on stdout, one line on stderr for an error.

    Returns the exit code: 0, or 1 after an error. SIGTERM ends the process with `INTERRUPTED`,
    unless the result is complete: then it is put in place.
    """
    interruption = Interruption(request.output)
    signal.signal(signal.SIGTERM, interruption.on_signal)
    try:
        prepare(request, _say, interruption)
    except FlambeauError as error:
        sys.stderr.write(f"flambeau: {' '.join(str(error).split())}\n")
        return 1
    return 0


def main(argv: list[str] | None = None) -> int:
    """The child process of `flambeau prepare`: one request, as JSON; returns the exit code."""
    return run(decode_request(read_request("prepare", argv), PrepareRequest))


def _fill(
    stage: Path, source: Path, task: TaskName, request: PrepareRequest, report: Report
) -> None:
    """Write all files of the result into an empty folder."""
    from flambeau.handlers.pretrained import describe_new, load_pretrained, quiet_libraries

    with quiet_libraries():
        if (source / _PICKLE).is_file() and not any(source.glob("*.safetensors")):
            report(f"{_PICKLE} is a pickle: only tensors are read from it")
        pretrained = load_pretrained(source, request.model_name, task, request.num_labels)
        note = describe_new(request.model_name, task, pretrained)
        if note:
            report(note)
        tokenizer = _save_tokenizer(stage, source, request, report)
        for name in sentence_files(source):
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, stage / name)
        if request.save_mode == "pretrained":
            pretrained.model.save_pretrained(stage)
        else:
            _save_traced(stage, task, pretrained, tokenizer, request, report)


def _save_traced(
    stage: Path,
    task: TaskName,
    pretrained: "Pretrained",
    tokenizer: "Tokenizer",
    request: PrepareRequest,
    report: Report,
) -> None:
    from flambeau.handlers.tokenizer_files import model_positions
    from flambeau.handlers.tracing import Tracer

    model = pretrained.model
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(stage)
    if task == "text-generation":
        model.generation_config.save_pretrained(stage)
    limit = model_positions(model.config.to_dict())
    length = request.max_length or _DEFAULT_TRACED_LENGTH
    if limit is not None and length > limit:
        report(f"max_length is {length}, but {request.model_name} reads {limit} tokens at most")
        length = limit
    report(f"Tracing with {length} tokens, and comparing with other lengths and batch sizes")
    Tracer(model, task, tokenizer, length).save(stage / TRACED_FILE)


def _save_tokenizer(
    stage: Path, source: Path, request: PrepareRequest, report: Report
) -> "Tokenizer":
    """Copy the source's tokenizer files, or make a `tokenizer.json` from its vocabulary."""
    from tokenizers import Tokenizer

    found = [
        path
        for path in sorted(source.iterdir())
        if path.name in TOKENIZER_FILES or path.suffix == _TOKENIZER_SUFFIX
    ]
    names = {path.name for path in found}
    has_models = any(path.suffix == _TOKENIZER_SUFFIX for path in found)
    if not has_models and not {"tokenizer.json", "vocab.txt", "vocab.json"} & names:
        raise ConfigError(
            f"{request.model_name} has no tokenizer: {source} holds neither tokenizer.json nor a"
            " vocabulary. Save the tokenizer there with save_pretrained."
        )
    try:
        if "tokenizer.json" in names:
            for path in found:
                shutil.copyfile(path, stage / path.name)
        else:
            _convert_tokenizer(stage, source, request.do_lower_case)
        tokenizer = Tokenizer.from_file(str(stage / "tokenizer.json"))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"The tokenizer of {request.model_name} cannot be read: {reason}"
        ) from error
    lowers = getattr(tokenizer.normalizer, "lowercase", None)
    if None not in (lowers, request.do_lower_case) and lowers != request.do_lower_case:
        report(
            f"do_lower_case is {request.do_lower_case}, but the tokenizer of {request.model_name}"
            f" {'lowers' if lowers else 'keeps'} case: its own file is followed"
        )
    return tokenizer


def _convert_tokenizer(stage: Path, source: Path, do_lower_case: bool | None) -> None:
    from transformers import AutoTokenizer

    from flambeau.handlers.tokenizer_files import convert_vocabulary

    converted = convert_vocabulary(source, read_json_object(source / "config.json"), do_lower_case)
    if converted is not None:
        converted.tokenizer.save(str(stage / "tokenizer.json"))
        settings = json.dumps(converted.config, indent=2, ensure_ascii=False)
        (stage / "tokenizer_config.json").write_text(settings + "\n", encoding="utf-8")
        return
    options = {} if do_lower_case is None else {"do_lower_case": do_lower_case}
    AutoTokenizer.from_pretrained(
        source, local_files_only=True, trust_remote_code=False, **options
    ).save_pretrained(stage)


def _pick_task(request: PrepareRequest, source: Path) -> TaskName:
    config = read_json_object(source / "config.json")
    if not config:
        raise ConfigError(
            f"{request.model_name} is a folder without config.json: save the model there with"
            " save_pretrained, or name a folder that holds one."
        )
    task = request.task or infer_task(config, makes_vectors=is_sentence_model(source))
    if task is None:
        made_for = config.get("architectures") or "none named"
        raise ConfigError(
            f"What {request.model_name} is for cannot be told from its architectures ({made_for})."
            f" Give --task, or mode in the configuration: {', '.join(tasks.available())}."
        )
    return task


def _check_output(output: Path) -> None:
    """Raise `ConfigError` where saving would delete what is not a model."""
    if Path.cwd().is_relative_to(output.resolve()):
        raise ConfigError(
            f"The output folder {output} is the working directory or lies above it, and cannot be"
            " replaced: choose a folder of its own with --output."
        )
    if not output.exists():
        return
    if not output.is_dir():
        raise ConfigError(f"{output} is a file: choose another --output, or move it away.")
    entries = sorted(output.iterdir())
    modules = {Path(name).parts[0] for name in sentence_files(output)}
    foreign = [
        path.name
        for path in entries
        if (path.suffix not in _MODEL_SUFFIXES or not path.is_file()) and path.name not in modules
    ]
    if entries and not foreign and "model_type" in read_json_object(output / "config.json"):
        return
    if entries:
        found = foreign[0] if foreign else "no config.json of a model"
        raise ConfigError(
            f"The folder {output} holds more than a model ({found}) and is not replaced:"
            " choose another --output, or move it away."
        )


def _say(line: str) -> None:
    """Progress is this command's output."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
