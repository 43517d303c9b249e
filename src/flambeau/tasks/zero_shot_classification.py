"""Zero-shot classification: how well each of the request's own labels fits a text.

The model was trained to tell whether one text follows from another (NLI). For each label it reads
the text and a sentence that names the label.
"""

import logging
from collections.abc import Sequence
from string import Formatter
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from flambeau.tasks.base import (
    AnswerOptions,
    BaseParameters,
    ForwardTask,
    Head,
    Inputs,
    PairTruncation,
    RowOutputs,
    TextInput,
    softmax,
    window_weights,
)
from flambeau.types import JsonValue, TaskName

logger = logging.getLogger(__name__)

MAX_LABELS = 1_000
MAX_TEMPLATE_CHARS = 1_000
MAX_PLACES = 4
"""How often a label may stand in the template."""

_TEMPLATE = (
    f"a text of at most {MAX_TEMPLATE_CHARS} characters with {{}} where the label goes"
    ' (other braces are doubled: "{{")'
)


class ZeroShotParameters(BaseParameters, frozen=True, kw_only=True):
    """What a request may set; `candidate_labels` it must.

    `multi_label`: each label has a probability of its own; else all labels together have 1.
    """

    candidate_labels: (
        Annotated[
            list[str],
            msgspec.Meta(description="a list of texts, or one text with commas between labels"),
        ]
        | None
    ) = None
    hypothesis_template: Annotated[
        str, msgspec.Meta(max_length=MAX_TEMPLATE_CHARS, description=_TEMPLATE)
    ] = "This example is {}."
    multi_label: bool = False


class Task(ForwardTask):
    """Legacy answer: the best label. Full answer: text, labels and scores, the best first.

    Of a text that is too long the rest is left out, never the label's sentence. Where it is read in
    windows, each label's logits are the mean over windows, weighted by how many tokens each is the
    first to read.
    """

    name: ClassVar[TaskName] = "zero-shot-classification"
    example: ClassVar[JsonValue] = {
        "inputs": "Flambeau carries the torch on.",
        "parameters": {"candidate_labels": ["sports", "politics", "science"]},
    }
    accepts: ClassVar[str] = (
        '{"inputs": "...", "parameters": {"candidate_labels": ["...", "..."]}};'
        " inputs may be a list of texts"
    )
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    truncation: ClassVar[PairTruncation] = "only_first"
    Parameters: ClassVar[type[BaseParameters]] = ZeroShotParameters

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self._entailment = _entailment(head)
        if self._entailment == -1:
            logger.warning(
                "None of the model's labels begins with 'entail': its last output is taken for"
                " entailment. Name the labels in config.json (label2id) to be sure."
            )

    @override
    def translate(self, given: dict[str, Any]) -> dict[str, Any]:
        """Labels in one text are split at commas; `multi_class` is the old name of `multi_label`."""
        translated = dict(given)
        if "multi_class" in translated:
            multi_class = translated.pop("multi_class")
            if multi_class is not None:
                translated["multi_label"] = multi_class
        labels = translated.get("candidate_labels")
        if isinstance(labels, str):
            stripped = (label.strip() for label in labels.split(","))
            translated["candidate_labels"] = [label for label in stripped if label]
        return translated

    @override
    def check(self, inputs: Inputs) -> None:
        parameters = inputs.parameters
        assert isinstance(parameters, ZeroShotParameters)
        labels = parameters.candidate_labels
        if labels is None:
            raise self.invalid("'candidate_labels' is missing under 'parameters'")
        if not labels:
            raise self.invalid("'candidate_labels' must have at least one label")
        if len(labels) > MAX_LABELS:
            raise self.invalid(
                f"'candidate_labels' has {len(labels)} labels; at most {MAX_LABELS} are allowed"
            )
        for index, label in enumerate(labels):
            if not label.strip():
                raise self.invalid(f"label {index} of 'candidate_labels' is empty")
        if not _is_template(parameters.hypothesis_template):
            raise self.invalid(f"'hypothesis_template' must be {_TEMPLATE}")

    @override
    def rows(self, entry: TextInput, parameters: ZeroShotParameters) -> list[TextInput]:
        template = parameters.hypothesis_template
        labels = parameters.candidate_labels or []
        return [TextInput(entry.text, template.format(label)) for label in labels]

    @override
    def postprocess(
        self, rows: Sequence[RowOutputs], entry: TextInput, options: AnswerOptions
    ) -> JsonValue:
        parameters: ZeroShotParameters = options.parameters
        labels = parameters.candidate_labels or []
        scores = self.scores(np.stack([_logits(row) for row in rows]), parameters.multi_label)
        # The pipeline reverses an ascending order: of equal labels the last comes first.
        order: list[int] = np.argsort(scores, kind="stable")[::-1].tolist()
        if options.shape == "legacy":
            return labels[order[0]]
        return {
            "sequence": entry.text,
            "labels": [labels[index] for index in order],
            "scores": scores[order].tolist(),
        }

    def scores(
        self, logits: npt.NDArray[np.floating], multi_label: bool
    ) -> npt.NDArray[np.float32]:
        """One score per label; `logits` are [labels, outputs of the model]."""
        if not multi_label and len(logits) > 1:
            return softmax(logits[:, self._entailment]).astype(np.float32)
        contradiction = -1 if self._entailment == 0 else 0
        both = softmax(logits[:, [contradiction, self._entailment]])
        return both[:, 1].astype(np.float32)


def _entailment(head: Head) -> int:
    """Which output means that the second text follows; -1, the last, where no label says so."""
    named = head.config.get("label2id")
    if not isinstance(named, dict):
        named = {label: index for index, label in enumerate(head.labels)}
    for label, index in named.items():
        if label.lower().startswith("entail") and isinstance(index, int):
            return index
    return -1


def _is_template(template: str) -> bool:
    """Whether a label fits in, and nothing else: formats can read attributes and fill memory."""
    try:
        fields = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except ValueError:
        return False
    if fields == [("", "", None)]:
        return True
    return 0 < len(fields) <= MAX_PLACES and all(field == ("0", "", None) for field in fields)


def _logits(row: RowOutputs) -> npt.NDArray[np.float64]:
    weights = window_weights(row.windows)
    logits: npt.NDArray[np.float64] = weights @ np.stack(
        [window.outputs["logits"] for window in row.windows]
    )
    return logits
