"""Explanations in the native handler: one forward pass, then many small ones in the bulk lane.

The first pass is that of a prediction: it tells what is to be explained. The rest are points on the
path of integrated gradients, one chunk after the other, so that a prediction that comes meanwhile
waits for one of them at most; or, where the model has no gradients, the same text without one word
after the other, which are texts like any others.
"""

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from flambeau.engines.attribution import GradientEngine, NoGradientsError, Target
from flambeau.handlers.explanation_answers import Told, full_answer, legacy_answer, row_words
from flambeau.handlers.explanation_methods import Budget, Gradients, Occlusion, Subject
from flambeau.handlers.explanation_request import ExplanationInputs
from flambeau.handlers.explanation_targets import Explained, Predicted, find_targets
from flambeau.handlers.native_answers import require_numbers
from flambeau.handlers.native_jobs import Answer, Part, Request
from flambeau.handlers.native_model import NativeModel
from flambeau.tasks.base import (
    AnswerOptions,
    BaseTask,
    ForwardTask,
    Reading,
    Row,
    RowOutputs,
    TextInput,
    Window,
)
from flambeau.types import JsonValue, OutputShape

EXPLANATION_HEADER = "x-flambeau-explanation"
"""The method that an explanation was made by, and why if it is not the one that was asked for."""

_PART_NAMES = {"question-answering": ("question", "context")}


class Explanation(Request):
    """A request for explanations. Always bulk work."""

    __slots__ = ("_targets", "asked", "budget", "model", "told")

    def __init__(
        self,
        index: int,
        read: ExplanationInputs,
        shape: OutputShape,
        model: NativeModel,
        limit: int,
    ) -> None:
        """`limit` is how many tokens a request may cost."""
        inputs = read.inputs
        super().__init__(index, inputs, inputs.options(shape))
        self.bulk = True
        self.asked = read.asked
        self.model = model
        self.told: Told | None = None
        self._targets = iter(read.targets)
        self.budget = Budget(limit)

    @override
    def part(self, entry: Any, rows: Sequence[Row], readings: Sequence[Reading]) -> "ExplainedPart":
        return ExplainedPart(self, entry, rows, readings, next(self._targets))

    @override
    def assemble(self, task: BaseTask) -> JsonValue:
        values = [part.answer.value for part in self.parts if part.answer is not None]
        return values if self.inputs.many else values[0]

    @override
    def headers(self) -> dict[str, str]:
        told = {EXPLANATION_HEADER: self.told.header} if self.told is not None else {}
        return {**super().headers(), **told}


class ExplainedPart(Part):
    """One entry that is explained: its prediction's job first, then those of a method."""

    __slots__ = ("_asked", "_explained", "_target", "_work")

    def __init__(
        self,
        request: Explanation,
        entry: Any,
        rows: Sequence[Row],
        readings: Sequence[Reading],
        target: object,
    ) -> None:
        """Explains the first window of the first row."""
        super().__init__(request, entry, rows, readings)
        self.jobs = [self.jobs[0][:1]]
        self.left = 1
        self._asked = request
        self._target = target
        self._explained: list[Explained] = []
        self._work: Gradients | Occlusion | None = None

    def advance(self) -> Answer | None:
        """The answer, if all is there; else None, and there are new jobs.

        Raises `PredictionError`.
        """
        if self._work is None:
            outputs = self.jobs[0][0].made
            assert isinstance(outputs, dict)
            require_numbers(outputs)
            self._explained = self._find(outputs)
            if not self._explained:
                return Answer([], self.usage())
            self._work = self._begin(self._subject(outputs))
        elif isinstance(self._work, Gradients):
            try:
                self._work.take(self.jobs.pop()[0].made)
            except NoGradientsError as error:
                outputs = self.jobs[0][0].made
                self._work = Occlusion(self._subject(outputs), self._targets(), str(error))
        jobs = self._work.next_jobs()
        if jobs:
            self.jobs.append(jobs)
            self.left = len(jobs)
            return None
        return Answer(self._tell(self._work), self.usage())

    @property
    def _row(self) -> TextInput:
        row = self.rows[0]
        assert isinstance(row, TextInput), "tasks that can be explained read texts"
        return row

    def _subject(self, outputs: Any) -> Subject:
        encoding = self.jobs[0][0].encoding
        request = self._asked
        return Subject(self, request.model, self._row, encoding, outputs, request.budget)

    def _find(self, outputs: Any) -> list[Explained]:
        """What the prediction's outputs say is to be explained."""
        task, row, encoding = self._asked.model.task, self._row, self.jobs[0][0].encoding
        assert isinstance(task, ForwardTask)
        if len(self.rows) > 1:
            raise task.invalid("explanations are of one text or pair in each entry")
        predicted = [RowOutputs(row, [Window(encoding, outputs)])]
        answer = task.postprocess(predicted, self.entry, AnswerOptions("full", task.Parameters()))
        found = find_targets(task, Predicted(row, encoding, outputs, answer), self._target)
        if self.request.options.shape == "full":
            return found
        if not found:
            raise task.invalid("the model finds nothing in the text to explain: name a 'target'")
        return [max(found, key=lambda each: each.score or 0.0)]  # TorchServe's shape has one

    def _targets(self) -> tuple[Target, ...]:
        """The values to attribute; two where the legacy shape tells an answer's ends apart."""
        ends = self._explained[0].ends
        if self.request.options.shape == "legacy" and ends is not None:
            return ends
        return tuple(each.target for each in self._explained)

    def _begin(self, subject: Subject) -> Gradients | Occlusion:
        asked, model = self._asked.asked, self._asked.model
        reason = None
        if asked.method != "occlusion":
            engine = model.engine
            reason = f"the engine {model.engine_name} gives no gradients"
            if isinstance(engine, GradientEngine):
                steps = asked.n_steps if asked.method == "integrated_gradients" else None
                try:
                    return Gradients(subject, engine, self._targets(), steps)
                except NoGradientsError as error:
                    reason = str(error)
        return Occlusion(subject, self._targets(), reason)

    def _tell(self, work: Gradients | Occlusion) -> JsonValue:
        found, told = work.attributions(), work.told
        require_numbers({str(index): each.tokens for index, each in enumerate(found)})
        self._asked.told = told
        row, encoding = self._row, self.jobs[0][0].encoding
        if self.request.options.shape == "legacy":
            names = encoding.tokens
            if told.method == "occlusion":
                names = [word.text for word in row_words(row, encoding)]
            return legacy_answer(found, names)
        task = self._asked.model.task.name
        parts = _PART_NAMES.get(task, ("text", "text_pair"))
        answers = [
            full_answer(explained, one, told, row, encoding, parts)
            for explained, one in zip(self._explained, found, strict=True)
        ]
        return answers if task == "token-classification" and self._target is None else answers[0]
