"""The goldens of a task, and the models that answer them: Flambeau's, through its own handler."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from typing_extensions import override

from flambeau.errors import PredictionError
from flambeau.testing.native import ServedNative
from flambeau.types import TaskName
from tests.parity.answers import difference, unpacked
from tests.parity.models import write_model
from tests.parity.specs import MODELS

GOLDENS = Path(__file__).parent / "goldens"


class Case(msgspec.Struct, frozen=True):
    """A call of a pipeline of transformers 4.57.6, and its answer."""

    inputs: Any
    parameters: dict[str, Any]
    outputs: Any

    @override
    def __str__(self) -> str:
        return f"{self.inputs!r:.160} with {self.parameters}"


class Goldens(msgspec.Struct, frozen=True):
    """What transformers 4.57.6 answered for one task, by model."""

    digests: Mapping[str, str]
    cases: Mapping[str, list[Case]]


def read_goldens(task: TaskName) -> Goldens:
    """All cases of a task."""
    with (GOLDENS / f"{task}.jsonl").open() as file:
        head, *records = map(json.loads, file)
    cases: dict[str, list[Case]] = {name: [] for name in head["models"]}
    for record in records:
        inputs = head["inputs"][record["inputs"]]
        case = Case(inputs, record["parameters"], unpacked(record["outputs"]))
        cases[record["model"]].append(case)
    return Goldens(head["models"], cases)


def model_names(task: TaskName) -> list[str]:
    """The models of a task, in the order of the specs."""
    return [name for name, spec in MODELS.items() if spec.task == task]


def serve(name: str, digest: str, folder: Path) -> ServedNative:
    """A model behind the native handler; the digest shows that it is the one of the goldens."""
    spec = MODELS[name]
    assert write_model(spec, folder) == digest, "the goldens were made with other weights"
    return ServedNative(folder, task=spec.task)


def answers(served: ServedNative, cases: list[Case]) -> list[Any]:
    """What Flambeau answers: all cases in one batch, each with parameters of its own."""
    bodies = [{"inputs": case.inputs, "parameters": case.parameters} for case in cases]
    return served(*bodies)


def differences(cases: list[Case], found: list[Any]) -> list[str]:
    """A line for each case whose answer is not the golden's."""
    lines = []
    for case, answer in zip(cases, found, strict=True):
        if isinstance(answer, PredictionError):
            lines.append(f"{case}: error {answer}")
        elif text := difference(case.outputs, answer):
            lines.append(f"{case}: {text}")
    return lines
