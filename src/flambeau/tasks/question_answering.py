"""Extractive question answering: the spans of a context that answer a question."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from flambeau.tasks.base import (
    AnswerOptions,
    BaseParameters,
    Encoding,
    ForwardTask,
    Inputs,
    PairTruncation,
    RowOutputs,
    RowValue,
    TextInput,
    Truncation,
    Window,
    WindowRule,
    json_type,
    largest,
    text_tokens,
)
from flambeau.types import JsonValue, TaskName

PIPELINE_ANSWER_TOKENS = 15
PLAIN_ANSWER_TOKENS = 30
"""The longest answer where a request does not say."""

PIPELINE_WINDOW_TOKENS = 384
"""The longest window, question and special tokens included, where a request does not say."""

MAX_TOP_K = 1_000

_BLOCK = 1 << 20
"""So many spans are scored at once: 4 or 8 MB, whatever window and answer lengths are asked for."""

_NO_WORD = np.iinfo(np.int64).max

_EXCLUDED = np.float32(-10_000)
"""The logit of tokens that no answer may begin or end with."""

Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.intp]

Count = Annotated[int, msgspec.Meta(ge=1)]


class Span(NamedTuple):
    """A stretch of the context: its first character, the one behind its last, its score."""

    start: int
    end: int
    score: float


class QuestionParameters(BaseParameters, frozen=True, kw_only=True):
    """The parameters of the Transformers pipeline.

    `max_seq_len` and `doc_stride` are the tokens of a window and those that two windows share. None:
    as in the pipeline. `max_question_len` and `padding` never changed an answer and do not here.
    """

    top_k: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOP_K)] = 1
    max_answer_len: Count | None = None
    max_seq_len: Count | None = None
    doc_stride: Annotated[int, msgspec.Meta(ge=0)] | None = None
    max_question_len: Count | None = None
    handle_impossible_answer: bool = False
    align_to_words: bool = True
    padding: bool | Literal["do_not_pad", "longest", "max_length"] | None = None


class Task(ForwardTask):
    """Legacy answer: the text of the best span. Full answer: with its score and place.

    The context is read in overlapping windows. A request in the pipelines' form is answered as
    Transformers 4.57.6 did, which adds up the scores of equal answers, so that they may exceed 1;
    else a score is p(start) * p(end) over the tokens of the whole context.
    """

    name: ClassVar[TaskName] = "question-answering"
    example: ClassVar[JsonValue] = {
        "question": "Who carries the torch?",
        "context": "Flambeau carries the torch.",
    }
    accepts: ClassVar[str] = (
        '{"question": "...", "context": "..."}, a JSON list of those, or one with lists in it'
    )
    outputs: ClassVar[tuple[str, ...]] = ("start_logits", "end_logits")
    aliases: ClassVar[Mapping[str, str]] = {"topk": "top_k"}
    unwraps_one: ClassVar[bool] = True
    truncation: ClassVar[PairTruncation] = "only_second"
    truncations: ClassVar[tuple[Truncation, ...]] = ("window", "cut", "refuse")
    Parameters: ClassVar[type[BaseParameters]] = QuestionParameters

    @override
    def unfold(self, value: RowValue) -> RowValue:
        """Lists of questions or contexts stand for a list of objects."""
        if not isinstance(value, dict):
            return value
        lists = {
            name: found
            for name in ("question", "context")
            if isinstance(found := value.get(name), list)
        }
        lengths = {len(found) for found in lists.values()}
        if len(lengths) > 1:
            counts = [f"{len(found)} {name}s" for name, found in lists.items()]
            raise self.invalid(f"the lists have {' and '.join(counts)}: there must be as many")
        if not lengths:
            return value
        return [
            value | {name: found[index] for name, found in lists.items()}
            for index in range(lengths.pop())
        ]

    @override
    def read_entry(self, value: RowValue) -> TextInput:
        if not isinstance(value, dict):
            found = "plain text" if isinstance(value, str) else json_type(value)
            raise self.invalid(f"expected an object with 'question' and 'context', got {found}")
        missing = [name for name in ("question", "context") if value.get(name) is None]
        if missing:
            raise self.invalid(f"the object has no '{missing[0]}'")
        question = self.require_text(value["question"], "the question")
        return TextInput(question, self.require_text(value["context"], "the context"))

    @override
    def check(self, inputs: Inputs) -> None:
        parameters = inputs.parameters
        assert isinstance(parameters, QuestionParameters)
        stride, longest = parameters.doc_stride, parameters.max_seq_len
        if stride is not None and longest is not None and stride > longest:
            raise self.invalid(
                f"'doc_stride' must be a whole number from 0 to max_seq_len, which is {longest},"
                f" not {stride}"
            )

    @override
    def window_rule(self, parameters: QuestionParameters) -> WindowRule:
        truncation = parameters.truncation or self.truncations[0]
        longest = parameters.max_seq_len
        if longest is None and truncation == "window":
            longest = PIPELINE_WINDOW_TOKENS
        return WindowRule(truncation, longest, parameters.doc_stride)

    @override
    def postprocess(
        self, rows: Sequence[RowOutputs], entry: TextInput, options: AnswerOptions
    ) -> JsonValue:
        context, windows = entry.pair or "", rows[0].windows
        parameters = options.parameters
        if options.pipeline:
            cls_id = self.head.vocabulary.cls_id if self.head.vocabulary is not None else None
            spans = pipeline_spans(windows, context, parameters, cls_id)
        else:
            spans = plain_spans(windows, context, parameters)
        spans = spans or [Span(0, 0, 0.0)]
        if options.shape == "legacy":
            return context[spans[0].start : spans[0].end]
        answers: list[JsonValue] = [
            {
                "score": span.score,
                "start": span.start,
                "end": span.end,
                "answer": context[span.start : span.end],
            }
            for span in spans
        ]
        return answers[0] if len(answers) == 1 else answers


def pipeline_spans(
    windows: Sequence[Window], context: str, parameters: QuestionParameters, cls_id: int | None
) -> list[Span]:
    """What the pipeline of Transformers 4.57.6 finds, the best first.

    Each window has probabilities of its own, in which the classification token (`cls_id`) takes
    part: it stands for "no answer". Answers with the same text, in any case and anywhere, are one,
    at the place of the first, with the sum of their scores.
    """
    wanted = parameters.top_k * 2 + 10 if parameters.align_to_words else parameters.top_k
    longest = parameters.max_answer_len or PIPELINE_ANSWER_TOKENS
    nothing = float("inf")
    found: dict[str, Span] = {}
    for window in windows:
        encoding = window.encoding
        first, behind = _context_tokens(encoding)
        allowed = _allowed(encoding, first, behind, cls_id)
        starts = _probabilities(window.outputs["start_logits"], allowed)
        ends = _probabilities(window.outputs["end_logits"], allowed)
        nothing = min(nothing, float(starts[0] * ends[0]))
        starts[0] = ends[0] = 0.0
        firsts, lasts, scores = best_spans(
            starts[first:behind], ends[first:behind], wanted, longest
        )
        places = _characters(encoding, firsts + first, lasts + first, parameters.align_to_words)
        for (start, end), score in zip(places, scores.tolist(), strict=True):
            text = context[start:end].lower()
            known = found.get(text)
            found[text] = (
                Span(start, end, score)
                if known is None
                else known._replace(score=known.score + score)
            )
    spans = list(found.values())
    if parameters.handle_impossible_answer:
        spans.append(Span(0, 0, nothing))
    return sorted(spans, key=lambda span: -span.score)[: parameters.top_k]


def plain_spans(
    windows: Sequence[Window], context: str, parameters: QuestionParameters
) -> list[Span]:
    """The best spans of all windows, each once, the best first.

    Probabilities are over all windows' tokens of the context, so that a window without an answer
    has none to give away. With `handle_impossible_answer` each window's first token takes part.
    """
    tokens = [text_tokens(window.encoding, context, part=1) for window in windows]
    null = [0] if parameters.handle_impossible_answer else []
    taking_part = [null + [token.index for token in each] for each in tokens]
    if not any(tokens):
        return []
    starts = _over_all([each.outputs["start_logits"] for each in windows], taking_part)
    ends = _over_all([each.outputs["end_logits"] for each in windows], taking_part)
    longest = parameters.max_answer_len or PLAIN_ANSWER_TOKENS
    wanted = parameters.top_k * 2 + 10 if parameters.align_to_words else parameters.top_k
    best: dict[tuple[int, int], float] = {}
    nothing = float("inf")
    for of_window, start, end in zip(tokens, starts, ends, strict=True):
        if null:
            nothing = min(nothing, float(start[0] * end[0]))
        firsts, lasts, scores = best_spans(start[len(null) :], end[len(null) :], wanted, longest)
        for first, last, score in zip(
            firsts.tolist(), lasts.tolist(), scores.tolist(), strict=True
        ):
            if parameters.align_to_words:
                while not of_window[first].starts_word:
                    first -= 1
                while last + 1 < len(of_window) and not of_window[last + 1].starts_word:
                    last += 1
            place = of_window[first].start, of_window[last].end
            best[place] = max(score, best.get(place, 0.0))
    spans = [Span(start, end, score) for (start, end), score in best.items()]
    if null:
        spans.append(Span(0, 0, nothing))
    return sorted(spans, key=lambda span: -span.score)[: parameters.top_k]


def best_spans(
    starts: Floats, ends: Floats, count: int, max_tokens: int
) -> tuple[Indices, Indices, Floats]:
    """The first and last tokens and the scores of the `count` best spans, the best first.

    A span's score is starts[first] * ends[last], with first <= last < first + max_tokens; spans
    without a score are left out. On ties the earlier is first. Takes O(n * max_tokens) time, and
    memory for `count` and a block of spans.
    """
    width = min(max_tokens, len(ends))
    if not width:
        return np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0, starts.dtype)
    # Row `first` of `reach` holds the ends from `first` on.
    padded = np.concatenate([ends, np.zeros(width - 1, ends.dtype)])
    reach = np.lib.stride_tricks.sliding_window_view(padded, width)
    step = max(1, _BLOCK // width)
    places, scores = np.empty(0, np.intp), np.empty(0, starts.dtype)
    for begin in range(0, len(starts), step):
        block = (starts[begin : begin + step, None] * reach[begin : begin + step]).ravel()
        best = _largest(block, count)
        scores = np.concatenate([scores, block[best]])
        places = np.concatenate([places, best + begin * width])
        kept = _largest(scores, count)
        places, scores = places[kept], scores[kept]
    firsts, lengths = np.divmod(places, width)
    return firsts, firsts + lengths, scores


def _largest(scores: Floats, count: int) -> Indices:
    """Indices of the `count` largest scores above 0, the largest first."""
    found = largest(scores, count)
    return found[scores[found] > 0]


def _context_tokens(encoding: Encoding) -> tuple[int, int]:
    """The first token of the context, and the first behind it."""
    parts = encoding.parts
    if 1 not in parts:
        return 0, 0
    return parts.index(1), len(parts) - parts[::-1].index(1)


def _allowed(
    encoding: Encoding, first: int, behind: int, cls_id: int | None
) -> npt.NDArray[np.bool_]:
    """Which tokens have a share in a window's probabilities: `[tokens]`.

    The context's and the classification token; all, where the context stands before the question.
    """
    if behind and 0 in encoding.parts and first < encoding.parts.index(0):
        return np.ones(len(encoding.ids), dtype=bool)
    allowed = (
        np.asarray(encoding.ids) == cls_id
        if cls_id is not None
        else np.zeros(len(encoding.ids), dtype=bool)
    )
    allowed[first:behind] = True
    return allowed


def _probabilities(
    logits: npt.NDArray[np.float32], allowed: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """In float32, as the pipeline has them: ties are the same."""
    kept = np.where(allowed, logits, _EXCLUDED)
    powers = np.exp(kept - kept.max())
    return np.asarray(powers / powers.sum())


def _over_all(
    logits: Sequence[npt.NDArray[np.float32]], taking_part: Sequence[Sequence[int]]
) -> list[npt.NDArray[np.float64]]:
    """Each window's tokens' probabilities among those of all windows."""
    chosen = [each[rows].astype(np.float64) for each, rows in zip(logits, taking_part, strict=True)]
    largest = max(each.max() for each in chosen if each.size)
    powers = [np.exp(each - largest) for each in chosen]
    total = sum(float(each.sum()) for each in powers)
    return [each / total for each in powers]


def _characters(
    encoding: Encoding, firsts: Indices, lasts: Indices, align_to_words: bool
) -> list[tuple[int, int]]:
    """Where spans of tokens begin and end in the context, widened to whole words if asked.

    Words are the pre-tokenizer's; one that a window cuts ends there.
    """
    offsets = np.asarray(encoding.offsets, dtype=np.intp).reshape(-1, 2)
    if align_to_words and len(firsts):
        first, behind = _context_tokens(encoding)
        given = encoding.words[first:behind]
        words = np.array([-1 if word is None else word for word in given])
        none_last = np.array([_NO_WORD if word is None else word for word in given])
        starts, ends = words[firsts - first], words[lasts - first]
        known = (starts >= 0) & (ends >= 0)  # else the tokens stand for themselves
        # Word numbers rise; filled in from both sides, tokens without one stay outside of words.
        rising = np.maximum.accumulate(words)
        falling = np.minimum.accumulate(none_last[::-1])[::-1]
        firsts = np.where(known, first + np.searchsorted(rising, starts), firsts)
        lasts = np.where(known, first + np.searchsorted(falling, ends, "right") - 1, lasts)
    return list(zip(offsets[firsts, 0].tolist(), offsets[lasts, 1].tolist(), strict=True))
