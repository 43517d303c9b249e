"""Text classification: one label for a text or a pair of texts, with the scores of all."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from typing_extensions import override

from flambeau.tasks.base import (
    AnswerOptions,
    BaseParameters,
    ForwardTask,
    RowOutputs,
    RowValue,
    TextInput,
    WindowRule,
    class_scores,
    largest,
    window_weights,
)
from flambeau.types import JsonValue, TaskName

Function = Literal["sigmoid", "softmax", "none"]


class ClassificationParameters(BaseParameters, frozen=True, kw_only=True):
    """What a request may set.

    `top_k`: so many labels, the best ones; null: all. `function_to_apply` makes scores of logits;
    None: the problem type decides. `max_length`: tokens of a text that are read. `padding` changes
    nothing here. `return_all_scores` is the pipelines' older name for `top_k` null.
    """

    top_k: Annotated[int, msgspec.Meta(ge=1)] | msgspec.UnsetType | None = msgspec.UNSET
    function_to_apply: Function | None = None
    return_all_scores: bool | None = None
    max_length: Annotated[int, msgspec.Meta(ge=1)] | None = None
    padding: bool | Literal["longest", "max_length", "do_not_pad"] | None = None


class ObjectInput(TextInput, frozen=True):
    """A text or a pair that came as an object: the pipeline's answer to it has no list around."""


class Task(ForwardTask):
    """Legacy answer: the label. Full answer: all labels with scores, the best first.

    A text that is read in windows has the mean of its windows' scores, weighted by how many tokens
    each is the first to read.
    """

    name: ClassVar[TaskName] = "text-classification"
    example: ClassVar[JsonValue] = "Flambeau carries the torch on."
    has_labels: ClassVar[bool] = True
    accepts: ClassVar[str] = (
        'plain text, {"text": "..."}, {"text": "...", "text_pair": "..."} or a JSON list of those'
    )
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    Parameters: ClassVar[type[BaseParameters]] = ClassificationParameters

    @override
    def translate(self, given: dict[str, Any]) -> dict[str, Any]:
        function = given.get("function_to_apply")
        if not isinstance(function, str):
            return given
        lower = function.lower()
        return given | {"function_to_apply": None if lower == "default" else lower}

    @override
    def window_rule(self, parameters: ClassificationParameters) -> WindowRule:
        return msgspec.structs.replace(
            super().window_rule(parameters), max_length=parameters.max_length
        )

    @override
    def read_entry(self, value: RowValue) -> TextInput:
        """As every task; [["text", "pair"]] is a pair, too, as it was for the pipeline."""
        if isinstance(value, list) and len(value) == 1:
            pair = value[0]
            if isinstance(pair, list) and len(pair) == 2:
                value = {"text": pair[0], "text_pair": pair[1]}
        entry = super().read_entry(value)
        assert isinstance(entry, TextInput)
        return ObjectInput(entry.text, entry.pair) if isinstance(value, dict) else entry

    @override
    def postprocess(
        self, rows: Sequence[RowOutputs], entry: TextInput, options: AnswerOptions
    ) -> JsonValue:
        windows = rows[0].windows
        parameters: ClassificationParameters = options.parameters
        logits = np.stack([window.outputs["logits"] for window in windows])
        if options.shape == "legacy" and len(windows) == 1:
            return self.label(int(logits.argmax()))
        of_windows = class_scores(logits, self.head.problem_type, parameters.function_to_apply)
        scores = window_weights(windows) @ of_windows
        if options.shape == "legacy":
            return self.label(int(scores.argmax()))
        # float32, as the pipeline's: where that cannot tell two scores, the labels' order decides.
        found = scores.astype(np.float32)
        all_scores = self._all_scores(parameters)
        best_first: list[int] = largest(found, len(found)).tolist()
        if parameters.top_k is not msgspec.UNSET:
            return self.named(found, best_first[: parameters.top_k])
        if options.pipeline and all_scores:
            answer: JsonValue = self.named(found, range(len(found)))
        elif not options.pipeline and all_scores is not False:
            return self.named(found, best_first)
        else:
            best = self.named(found, best_first[:1])
            answer = best[0] if options.pipeline else best
        # The pipeline puts what it makes of a string into a list, but not that of an object.
        bare = options.many or not options.pipeline or isinstance(entry, ObjectInput)
        return answer if bare else [answer]

    def _all_scores(self, parameters: ClassificationParameters) -> bool | None:
        """`return_all_scores`: the request's, else the model's configuration's."""
        if parameters.return_all_scores is not None:
            return parameters.return_all_scores
        configured = self.head.config.get("return_all_scores")
        return configured if isinstance(configured, bool) else None
