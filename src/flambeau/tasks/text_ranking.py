"""Text ranking: which of several texts answer a query best, as a cross-encoder scores each pair."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from typing_extensions import override

from flambeau.errors import ErrorKind, LoadError, PredictionError
from flambeau.tasks.base import (
    BESIDE_NAMES,
    AnswerOptions,
    BaseParameters,
    Entry,
    ForwardTask,
    Head,
    LengthParameters,
    RowOutputs,
    RowValue,
    TextInput,
    WindowRule,
    activation,
    json_type,
    length_rule,
    short_numbers,
    translate_length,
)
from flambeau.types import JsonValue, TaskName


class Parameters(LengthParameters, frozen=True, kw_only=True):
    """`top_n`: only so many texts, the best ones. `raw_scores`: the model's own numbers instead of
    those that its activation makes of them. `return_text`: the texts, too.
    """

    top_n: Annotated[int, msgspec.Meta(ge=1)] | None = None
    raw_scores: bool = False
    return_text: bool = False


class Ranking(Entry, frozen=True):
    """A query and the texts to rank; `single`: one pair that only wants its score."""

    query: str
    texts: list[str]
    single: bool = False


class Task(ForwardTask):
    """Legacy and full answer: `index` and `score` of each text, the best first.

    Of a pair that is too long for the model and read in windows, the best window's score counts.
    """

    name: ClassVar[TaskName] = "text-ranking"
    example: ClassVar[JsonValue] = {
        "query": "Who carries the torch?",
        "texts": ["Flambeau carries the torch.", "It rains in London."],
    }
    accepts: ClassVar[str] = (
        '{"query": "...", "texts": ["...", "..."]} or pairs {"text": "...", "text_pair": "..."}'
    )
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    Parameters: ClassVar[type[BaseParameters]] = Parameters
    aliases: ClassVar[Mapping[str, str]] = {"return_documents": "return_text"}  # Cohere's name
    beside: ClassVar[frozenset[str]] = BESIDE_NAMES | {
        "raw_scores",
        "return_documents",
        "return_text",
        "top_n",
    }

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        if len(head.labels) > 1:
            raise LoadError(
                f"The model has {len(head.labels)} labels: text-ranking needs one that gives a pair"
                " one score. Set task to text-classification."
            )
        self._activation = activation(_activation_name(head.config))

    @override
    def translate(self, given: dict[str, Any]) -> dict[str, Any]:
        return translate_length(given)

    @override
    def window_rule(self, parameters: Any) -> WindowRule:
        return length_rule(parameters, self.truncations[0])

    @override
    def read_entry(self, value: RowValue) -> Ranking:
        if not isinstance(value, dict):
            found = "plain text" if isinstance(value, str) else json_type(value)
            raise self.invalid(f"expected an object with 'query' and 'texts', got {found}")
        if "text" in value and "text_pair" in value:
            query = self.require_text(value["text"], "the text")
            return Ranking(query, [self.require_text(value["text_pair"], "'text_pair'")], True)
        name = "documents" if value.get("texts") is None and "documents" in value else "texts"
        missing = [each for each in ("query", name) if value.get(each) is None]
        if missing:
            raise self.invalid(f"the object has no '{missing[0]}'")
        query = self.require_text(value["query"], "'query'")
        texts = value[name]
        if name == "documents" and isinstance(texts, list):
            texts = [each.get("text") if isinstance(each, dict) else each for each in texts]
        return Ranking(query, self.require_texts(texts, name))

    @override
    def rows(self, entry: Any, parameters: Any) -> Sequence[TextInput]:
        assert isinstance(entry, Ranking)
        return [TextInput(entry.query, text) for text in entry.texts]

    @override
    def postprocess(
        self, rows: Sequence[RowOutputs], entry: Any, options: AnswerOptions
    ) -> JsonValue:
        assert isinstance(entry, Ranking)
        given = options.parameters
        assert isinstance(given, Parameters)
        logits = [[window.outputs["logits"] for window in row.windows] for row in rows]
        if len(logits[0][0]) != 1:
            raise PredictionError(
                f"The model gives {len(logits[0][0])} scores for a pair, and ranking needs one. Set"
                " task to text-classification.",
                ErrorKind.LOAD_FAILED,
            )
        raw = np.array([max(each[0] for each in windows) for windows in logits], dtype=np.float32)
        scores = raw if given.raw_scores else self._activation(raw)
        numbers = short_numbers(scores)
        if entry.single:
            return {"label": self.label(0), "score": numbers[0]}
        # Far from 0, an activation makes equal numbers of different ones.
        best_first = np.lexsort((-raw, -scores))[: given.top_n]
        return [
            {"index": index, "score": numbers[index]}
            | ({"text": entry.texts[index]} if given.return_text else {})
            for index in best_first.tolist()
        ]


def _activation_name(config: Mapping[str, object]) -> str:
    """What sentence-transformers' CrossEncoder does with a score; sigmoid where nothing says."""
    section = config.get("sentence_transformers")
    named = section.get("activation_fn") if isinstance(section, Mapping) else None
    named = named or config.get("sbert_ce_default_activation_function")
    return str(named or "torch.nn.modules.activation.Sigmoid")
