"""Image classification: what a picture shows."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
from typing_extensions import override

from flambeau.tasks.base import (
    AnswerOptions,
    BaseParameters,
    Entry,
    FileTask,
    ImageInput,
    InputKind,
    RowOutputs,
    RowValue,
    class_scores,
    largest,
)
from flambeau.types import JsonValue, TaskName


class Parameters(BaseParameters, frozen=True, kw_only=True):
    """`top_k`: so many labels, the best ones. `function_to_apply`: how logits become scores."""

    top_k: Annotated[int, msgspec.Meta(ge=1)] = 5
    function_to_apply: Literal["sigmoid", "softmax", "none", "default"] | None = None


class Task(FileTask):
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
    def read_entry(self, value: RowValue) -> Entry:
        return ImageInput(self.read_file(value, "the picture", ("image", "data", "b64")))

    @override
    def postprocess(
        self, rows: Sequence[RowOutputs], entry: ImageInput, options: AnswerOptions
    ) -> JsonValue:
        logits = rows[0].windows[0].outputs["logits"]
        function = options.parameters.function_to_apply
        scores = class_scores(logits, self.head.problem_type, function)
        best: list[int] = largest(scores, options.parameters.top_k).tolist()
        if options.shape == "legacy":
            return {self.label(index): float(scores[index]) for index in best}
        return self.named(scores, best)
