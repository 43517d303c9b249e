"""Answers golden samples, for `flambeau pack --golden`: `python -m flambeau.handlers.golden_answers`.

The commands' process never imports a model framework.
"""

import contextlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from flambeau.archive.golden import (
    GOLDEN_PATH,
    Golden,
    Sample,
    Wanted,
    read_golden,
    read_samples,
    write_golden,
)
from flambeau.archive.verdict import versions
from flambeau.errors import ArchiveError, LoadError, PredictionError
from flambeau.handlers.child import read_request, run_quietly, say
from flambeau.handlers.child_request import decode_request
from flambeau.handlers.golden import ask, compare, golden_settings, tolerance_of
from flambeau.handlers.golden_difference import Tolerance, difference
from flambeau.handlers.golden_request import GoldenRequest
from flambeau.handlers.runner import Runner
from flambeau.ipc.messages import Load
from flambeau.types import JsonValue, Precision


def answer_samples(request: GoldenRequest, report: Callable[[str], None] = lambda _: None) -> None:
    """Write the golden outputs of a file of samples.

    Raises `ArchiveError` that names the line of a sample that the model refuses, that it answers
    differently each time, or for which it gives another answer than the sample names; `LoadError`
    where the archive that is to be served does not agree.
    """
    wanted = read_samples(request.samples)
    runner = _load(request.reference)
    tolerance = tolerance_of(
        runner.info, golden_settings(runner.context.model_yaml_config).tolerance
    )
    samples = [
        Sample(one.input, _answer(runner, one, tolerance, f"{request.samples}, line {one.line}"))
        for one in wanted
    ]
    write_golden(request.output, Golden(samples, versions()))
    report(f"{len(samples)} golden outputs, by the engine {runner.info.get('engine')}")
    if request.archive is None:
        return
    del runner
    target = request.archive / GOLDEN_PATH
    shutil.copyfile(request.output, target)
    try:
        served = _load(request.archive)
    except LoadError as error:
        raise LoadError(f"The archive would not become ready. {error.message}") from error
    told = " ".join(served.info[name] for name in ("engine", "precision") if name in served.info)
    report(f"{told}: {served.info['golden']}")


def disagreement(model_dir: Path, measured: tuple[str, Precision], threads: int) -> str | None:
    """Why an archive's worker with this engine and precision would not become ready, or None.

    Only asked of an archive with golden outputs; without them the answer is None.
    """
    if read_golden(model_dir) is None:
        return None
    with contextlib.chdir(Path.cwd()):  # loading changes it
        try:
            _load(model_dir, measured, threads)
        except LoadError as error:
            return error.message
    return None


def _answer(runner: Runner, one: Wanted, tolerance: Tolerance, where: str) -> JsonValue:
    found = ask(runner, one.input)
    if isinstance(found, PredictionError):
        raise ArchiveError(f"{where}: the model gives no answer. {found.message}")
    if one.output is not msgspec.UNSET:
        told = compare(found, one.output, tolerance)
        if told is not None:
            raise ArchiveError(f"{where}: the model {told} (tolerance {tolerance.number:g})")
        expected: JsonValue = one.output
        return expected
    again = ask(runner, one.input)
    if isinstance(again, PredictionError) or difference(found, again, tolerance) is not None:
        raise ArchiveError(
            f"{where}: the model answers differently each time. Where it samples, give a seed, or"
            " do_sample false"
        )
    return found


def _load(
    model_dir: Path, measured: tuple[str, Precision] | None = None, threads: int = 0
) -> Runner:
    return Runner.load(
        Load(
            name="golden",
            version="",
            model_dir=str(model_dir),
            handler="",
            batch_size=1,
            measured=measured,
            threads=threads,
        )
    )


def main(argv: list[str] | None = None) -> int:
    """The child process of `flambeau pack --golden`; returns the exit code."""
    request = decode_request(read_request("golden_answers", argv), GoldenRequest)
    return run_quietly(lambda: answer_samples(request, say))


if __name__ == "__main__":
    sys.exit(main())
