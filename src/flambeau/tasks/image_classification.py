"""Image classification: what a picture shows."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
from typing_extensions import override

from flambeau.tasks.base import (
    AnswerOptions,
    BaseParameters,
    Entry,
    ForwardTask,
    ImageInput,
    InputKind,
    Inputs,
    NotAFileError,
    RowOutputs,
    RowValue,
    class_scores,
    file_bytes,
    is_json,
)
from flambeau.types import JsonValue, TaskName


class Parameters(BaseParameters, frozen=True, kw_only=True):
    """`top_k`: so many labels, the best ones. `function_to_apply`: how logits become scores."""

    top_k: Annotated[int, msgspec.Meta(ge=1)] = 5
    function_to_apply: Literal["sigmoid", "softmax", "none", "default"] | None = None


class Task(ForwardTask):
    """Legacy answer: scores by label, as TorchServe's image_classifier gives. Full: a list."""

    name: ClassVar[TaskName] = "image-classification"
    example: ClassVar[JsonValue] = {
        "inputs": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAA"
        "AADElEQVR4nGOoaOoBAAL8AYfNyRkeAAAAAElFTkSuQmCC"  # one grey pixel, as PNG
    }
    accepts: ClassVar[str] = (
        'a picture as the body, {"inputs": "<base64>"}, or a JSON list of those'
    )
    max_entries: ClassVar[int] = 64
    reads: ClassVar[InputKind] = "image"
    has_labels: ClassVar[bool] = True
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    Parameters: ClassVar[type[BaseParameters]] = Parameters

    @override
    def parse(self, value: RowValue) -> Inputs:
        if isinstance(value, bytearray | memoryview):
            value = bytes(value)
        if isinstance(value, bytes) and not is_json(value):
            return Inputs([self.read_entry(value)], parameters=self.read_parameters(None))
        return super().parse(value)

    @override
    def read_entry(self, value: RowValue) -> Entry:
        if isinstance(value, dict):
            files = (value.get(name) for name in ("image", "data", "b64"))
            value = next((file for file in files if file is not None), None)
            if value is None:
                raise self.invalid("the object has no 'image'")
        try:
            return ImageInput(file_bytes(value, "the picture"))
        except NotAFileError as error:
            raise self.invalid(str(error)) from None

    @override
    def postprocess(
        self, rows: Sequence[RowOutputs], entry: ImageInput, options: AnswerOptions
    ) -> JsonValue:
        logits = rows[0].windows[0].outputs["logits"]
        function = options.parameters.function_to_apply
        scores = class_scores(logits, self.head.problem_type, function)
        best = np.argsort(-scores, kind="stable")[: options.parameters.top_k]
        if options.shape == "legacy":
            return {self.label(int(index)): float(scores[index]) for index in best}
        return [{"label": self.label(int(index)), "score": float(scores[index])} for index in best]
