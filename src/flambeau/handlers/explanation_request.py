"""What a request for explanations says: its entries, a method, and what of each is explained."""

from typing import Annotated, Any

import msgspec

from flambeau.errors import PredictionError
from flambeau.handlers.explanation_answers import Method
from flambeau.handlers.explanation_targets import can_explain
from flambeau.tasks.base import (
    BaseParameters,
    BaseTask,
    Inputs,
    RowValue,
    WrongParameterError,
    decode_text,
    json_type,
    parse_structured_text,
    read_parameters,
)

MAX_STEPS = 500


class ExplanationParameters(BaseParameters, frozen=True, kw_only=True):
    """What a request for explanations may set. `target` is read by `find_targets`.

    Of a text that is longer than the model reads, the first window is explained.
    """

    method: Method = "integrated_gradients"
    n_steps: Annotated[int, msgspec.Meta(ge=1, le=MAX_STEPS)] = 50
    target: Any = None


class ExplanationInputs(msgspec.Struct, frozen=True):
    """A request for explanations: its entries, how they are explained, and each one's target."""

    inputs: Inputs
    asked: ExplanationParameters
    targets: list[object]


def read_explanation(task: BaseTask, value: RowValue) -> ExplanationInputs:
    """Read one row's value. `target` may stand in an entry, as TorchServe has it, or in `parameters`.

    Raises `PredictionError`: of status 501 for tasks without explanations, else as `task.parse`.
    """
    if not can_explain(task):
        raise PredictionError(
            f"There are no explanations of {task.name} models: only of text-classification,"
            " token-classification and question-answering.",
            status=501,
        )
    if isinstance(value, bytes | bytearray | memoryview):
        value = decode_text(bytes(value))
    if isinstance(value, str):
        value = parse_structured_text(value)
    given: RowValue = value.get("parameters") if isinstance(value, dict) else None
    if given is not None and not isinstance(given, dict):
        raise task.invalid(f"'parameters' must be an object, not {json_type(given)}")
    try:
        asked = read_parameters(ExplanationParameters, given or {})
    except WrongParameterError as error:
        raise task.invalid(str(error)) from None
    value, targets = _take_targets(value)
    if isinstance(value, dict):
        truncation = "refuse" if asked.truncation == "refuse" else "cut"
        value["parameters"] = {"details": asked.details, "truncation": truncation}
    inputs = task.parse(value)
    if len(targets) != len(inputs.entries):
        if any(each is not None for each in targets):
            raise task.invalid("a 'target' must stand in the entry that it is of")
        targets = [None] * len(inputs.entries)
    return ExplanationInputs(
        inputs, asked, [asked.target if each is None else each for each in targets]
    )


def _take_targets(value: RowValue) -> tuple[RowValue, list[object]]:
    """The value without its entries' targets, and these."""
    if isinstance(value, dict) and "inputs" in value:
        inputs, targets = _take_from_entries(value["inputs"])
        return {**value, "inputs": inputs}, targets
    return _take_from_entries(value)


def _take_from_entries(value: RowValue) -> tuple[RowValue, list[object]]:
    if isinstance(value, list | tuple):
        taken = [_take_from_entry(each) for each in value]
        return [entry for entry, _ in taken], [target for _, target in taken]
    entry, target = _take_from_entry(value)
    return entry, [target]


def _take_from_entry(entry: RowValue) -> tuple[RowValue, object]:
    if not isinstance(entry, dict):
        return entry, None
    kept = {name: each for name, each in entry.items() if name != "target"}
    return kept, entry.get("target")
