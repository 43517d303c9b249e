"""A model's tokenizer: texts to tokens and back, and what happens to texts that are too long.

`tokenizer.json` is used as it stands, through the `tokenizers` library: `AutoTokenizer` rebuilds
some tokenizers and gets other tokens (design.md section 3).
"""

import logging
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec

from flambeau.errors import LoadError, PredictionError, invalid_input
from flambeau.handlers.limits import MAX_REQUEST_TOKENS
from flambeau.handlers.tokenizer_vocabulary import TokenizerSource, TokenizerVocabulary, joined
from flambeau.tasks.base import (
    BaseTask,
    Encoding,
    PairTruncation,
    Reading,
    TextInput,
    WindowRule,
)

if TYPE_CHECKING:
    from tokenizers import Encoding as LibraryEncoding

logger = logging.getLogger(__name__)

MAX_CHARS_PER_TOKEN = 64
"""Of a text only `max_length` times so many characters are tokenised. Real texts have 1 to 6 per
token, so that nothing is lost, and a text of megabytes costs no more than one that fits."""

MAX_CHARS = 1_000_000
"""The longest text, in characters, that is read in windows or counted to be refused."""

_REPEATED: dict[PairTruncation, str] = {
    "longest_first": "shorter text",
    "only_first": "second text",
    "only_second": "question",
}
"""What each window of a pair has whole."""

QUESTION_STRIDE = 128
"""Tokens that two windows share where a question stands in each, at most; else half a window."""

_LANGUAGE = re.compile(r"[a-z]{2}_[A-Z]{2}|[a-z]{3}_[A-Z][a-z]{3}|__[a-z]{2,3}__")


class TextTokenizer:
    """Texts to tokens and back, with truncation that is noticed."""

    def __init__(
        self, source: TokenizerSource, task: type[BaseTask], max_length: int, pad_id: int | None
    ) -> None:
        """`max_length` counts all tokens of a row, special ones too."""
        self.max_length = max_length
        self.pad_id = pad_id
        self.eos_id = source.token_id("eos_token")
        names = source.config.get("model_input_names")
        self._context_first = task.truncation == "only_second" and source.pads_left
        self._has_type_ids = not isinstance(names, list) or "token_type_ids" in names
        self._cuts_left = task.truncation_side == "left"
        self._pair_strategy = task.truncation
        self._source = source
        self._tokenizer = source.tokenizer
        self.vocabulary = TokenizerVocabulary(source)
        self.shorten(max_length)
        # The file may carry the truncation and padding of whoever saved it last.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def shorten(self, max_length: int) -> None:
        """Read at most so many tokens of a row. Raises `LoadError` where that leaves no text."""
        special = self._tokenizer.num_special_tokens_to_add(self._pair_strategy != "longest_first")
        if max_length <= special:
            raise LoadError(
                f"max_length is {max_length}, but {special} special tokens alone fill that."
                " Set a larger max_length."
            )
        self.max_length = min(self.max_length, max_length)

    def encode(
        self, rows: Sequence[TextInput], rules: Sequence[WindowRule] = ()
    ) -> list[Reading | PredictionError]:
        """Tokenise each row by its rule; one that cannot be brought to size is an error of its own.

        No rules: what is too long is cut off. Not thread-safe.
        """
        given = [
            self._given(row, rule)
            for row, rule in zip(rows, rules or [WindowRule()] * len(rows), strict=True)
        ]
        if any(row.words is not None or not row.special for row in given):
            return [self._read_alone(row) for row in given]
        try:
            encodings = self._tokenizer.encode_batch([row.text_or_pair for row in given])
        except Exception:  # noqa: BLE001 - the library raises plain Exception; sorted out one by one
            return [self._read_alone(row) for row in given]
        return [self._read(row, full) for row, full in zip(given, encodings, strict=True)]

    def stand_in(self, *names: str) -> int:
        """The id of the first of these special tokens that there is; else of padding, else 0."""
        found = (self._source.token_id(name) for name in names)
        return next((each for each in found if each is not None), self.pad_id or 0)

    def decode_after(
        self, prompt: Sequence[int], ids: Sequence[int], *, clean: bool = False
    ) -> str:
        """The text of tokens that follow a prompt's, without special ones.

        Decoded together with the prompt: some tokenizers drop the space before a first token.
        The prompt is cut off by its length, as the Transformers pipelines do it. `clean`: as theirs,
        without spaces before punctuation marks.
        """
        before, whole = self.decode(prompt), self.decode([*prompt, *ids])
        if clean:
            before, whole = joined(before), joined(whole)
        return whole[len(before) :]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def is_special(self, token_id: int) -> bool:
        """Whether a token is none of a text's own."""
        return token_id in self._special_ids

    @cached_property
    def _special_ids(self) -> set[int]:
        added = self._tokenizer.get_added_tokens_decoder().items()
        return {token_id for token_id, token in added if token.special}

    @cached_property
    def languages(self) -> dict[str, int]:
        """The tokens that name languages, as mBART, NLLB and M2M100 have them."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {
            token.content: token_id
            for token_id, token in added.items()
            if _LANGUAGE.fullmatch(token.content)
        }

    def characters(self, row: TextInput, rule: WindowRule) -> int:
        """How many characters are tokenised of a row."""
        most = self._most_characters(rule)
        return min(len(row.text), most) + min(len(row.pair or ""), most)

    def _most_characters(self, rule: WindowRule) -> int:
        """Of a text or its pair; no more can be needed, or are read."""
        if rule.truncation != "cut":
            return MAX_CHARS
        return min(rule.max_length or self.max_length, self.max_length) * MAX_CHARS_PER_TOKEN

    def _given(self, row: TextInput, rule: WindowRule) -> "_Given":
        """A row as the library takes it, without the characters that cannot be needed.

        The library gives an empty pair its separators; Transformers takes it for none.
        """
        limit = min(rule.max_length or self.max_length, self.max_length)
        most = self._most_characters(rule)
        text, pair = row.text, row.pair or None
        cuts_left = self._cuts_left if rule.side is None else rule.side == "left"
        cuts_left = cuts_left and rule.truncation != "window"  # nothing is cut off
        clipped = len(text) > most or len(pair or "") > most
        if clipped:
            text = text[-most:] if cuts_left else text[:most]
            pair = pair[:most] if pair is not None else None
        return _Given(
            text,
            pair,
            rule,
            limit,
            clipped,
            self._context_first,
            cuts_left,
            row.words,
            row.delimiter,
            row.special,
        )

    def _read_alone(self, given: "_Given") -> Reading | PredictionError:
        try:
            return self._read(given, self._encode(given))
        except Exception as error:  # noqa: BLE001 - as above; its text is not passed on
            return invalid_input(f"the text cannot be tokenised ({type(error).__name__})")

    def _read(self, given: "_Given", full: "LibraryEncoding") -> Reading | PredictionError:
        """What of a row the model reads; `full` is all of it."""
        length = len(full)
        if length <= given.limit and not given.clipped:
            used = len(given.text) + len(given.pair or "")
            return Reading([self._to_record(full, given)], length, used)
        strategy: str = self._pair_strategy
        if self._context_first:
            strategy = "only_first"
        if given.rule.truncation == "cut":
            windows = self._windows(given, full, strategy, 0)
            kept = windows if isinstance(windows, PredictionError) else windows[:1]
        elif given.rule.truncation == "refuse" or given.clipped:
            return _too_long(given, length)
        else:
            if given.pair and strategy == "longest_first":
                first = full.sequence_ids.count(0)
                strategy = "only_second" if full.sequence_ids.count(1) > first else "only_first"
            kept = self._windows(given, full, strategy, given.rule.stride)
        if isinstance(kept, PredictionError):
            return kept
        used = sum(self._used(given, kept, part) for part in (0, 1))
        return Reading(kept, length, used, truncated=given.rule.truncation == "cut")

    def _windows(
        self, given: "_Given", full: "LibraryEncoding", strategy: str, stride: int | None
    ) -> list[Encoding] | PredictionError:
        """The first window of a row that is too long, and those after it."""
        special = self._tokenizer.num_special_tokens_to_add(given.pair is not None)
        special = special if given.special else 0
        if given.pair is None:
            strategy = "longest_first"
        whole = {"only_first": 1, "only_second": 0}.get(strategy)
        repeated = 0 if whole is None else full.sequence_ids.count(whole)
        room = given.limit - special - repeated
        questions = self._pair_strategy == "only_second"
        if room < 1 and given.pair is None:
            return invalid_input(
                f"'max_length' is {given.limit}, which {special} special tokens alone fill: set a"
                " larger one"
            )
        if room < 1:
            return invalid_input(
                f"the {_REPEATED[self._pair_strategy]} alone is longer than the"
                f" {given.limit} tokens {'of a window' if questions else 'that the model reads'}:"
                f" it has {repeated}, besides {special} special ones. Shorten it"
            )
        if stride is None:
            usual = min(given.limit // 2, QUESTION_STRIDE) if questions else given.limit // 4
            stride = usual if usual < room else room // 2
        elif stride >= room and stride:
            name = "doc_stride" if questions else "stride"
            return invalid_input(
                f"'{name}' is {stride}, but of a window's {given.limit} tokens only {room} are of"
                f" the text: set a smaller one"
            )
        cost = (len(full) - special - repeated) // (room - stride) * given.limit
        if given.rule.truncation == "window" and cost > MAX_REQUEST_TOKENS:
            return invalid_input(
                f"the text has {len(full)} tokens, which cost {cost} in windows of {given.limit}"
                f" that share {stride}; one request may cost at most {MAX_REQUEST_TOKENS}. Send it"
                " in parts"
            )
        side = "left" if given.cuts_left else "right"
        try:
            self._tokenizer.enable_truncation(
                given.limit, stride=stride, strategy=strategy, direction=side
            )
            first = self._encode(given)
        finally:
            self._tokenizer.no_truncation()
        return [
            self._to_record(first, given),
            *(self._to_record(each, given, stride) for each in first.overflowing),
        ]

    def _encode(self, given: "_Given") -> "LibraryEncoding":
        if given.words is None:
            batch = [given.text_or_pair]
            return self._tokenizer.encode_batch(batch, add_special_tokens=given.special)[0]
        return self._tokenizer.encode_batch([given.kept_words], is_pretokenized=True)[0]

    def _used(self, given: "_Given", windows: list[Encoding], part: int) -> int:
        """How many characters of the text or the pair the windows hold."""
        spans = [
            offsets
            for window in windows
            for offsets, place in zip(window.offsets, window.parts, strict=True)
            if place == part
        ]
        if not spans:
            return 0
        if given.cuts_left:
            return len((given.text, given.pair or "")[part]) - min(start for start, _ in spans)
        return max(end for _, end in spans)

    def _to_record(self, encoding: "LibraryEncoding", given: "_Given", shared: int = 0) -> Encoding:
        offsets = encoding.offsets
        if given.words is not None:  # the library counts each word's characters from its beginning
            offsets = given.in_text(offsets, encoding.word_ids)
        return Encoding(
            ids=encoding.ids,
            type_ids=encoding.type_ids if self._has_type_ids else [],
            tokens=encoding.tokens,
            offsets=offsets,
            words=encoding.word_ids,
            parts=_swapped(encoding.sequence_ids) if self._context_first else encoding.sequence_ids,
            shared=shared,
        )


class _Given(msgspec.Struct, frozen=True):
    """A row, how it is to be brought to size, and whether characters were left out already.

    `pair_first`: the pair stands before the text. `cuts_left`: what is too much is taken from its
    beginning. `words` are all of the row's; `text` may have been clipped.
    """

    text: str
    pair: str | None
    rule: WindowRule
    limit: int
    clipped: bool
    pair_first: bool
    cuts_left: bool
    words: list[str] | None = None
    delimiter: int = 1
    special: bool = True

    @property
    def text_or_pair(self) -> str | tuple[str, str]:
        if self.pair is None:
            return self.text
        return (self.pair, self.text) if self.pair_first else (self.text, self.pair)

    @property
    def kept_words(self) -> list[str]:
        """The words of the text, or of what was left of it."""
        words = self.words or []
        begins = self._begins()
        return [
            word[: len(self.text) - begin]
            for word, begin in zip(words, begins, strict=True)
            if begin < len(self.text)
        ]

    def in_text(
        self, offsets: Sequence[tuple[int, int]], words: Sequence[int | None]
    ) -> list[tuple[int, int]]:
        """Offsets in words as offsets in the text."""
        begins = self._begins()
        shifts = [0 if word is None else begins[word] for word in words]
        return [
            (start + shift, end + shift)
            for (start, end), shift in zip(offsets, shifts, strict=True)
        ]

    def _begins(self) -> list[int]:
        """Where each word begins in the text."""
        lengths = (len(word) + self.delimiter for word in self.words or [])
        return list(accumulate(lengths, initial=0))[:-1]


def _swapped(parts: list[int | None]) -> list[int | None]:
    """Parts as the task numbers them, where the pair stands before the text."""
    return [None if part is None else 1 - part for part in parts]


def _too_long(given: _Given, length: int) -> PredictionError:
    if given.clipped:
        return invalid_input(
            f"the text has more than {MAX_CHARS} characters, which is as much as one request reads."
            " Send it in parts"
        )
    return invalid_input(
        f"the text has {length} tokens and the model reads {given.limit}, and 'truncation' is"
        ' "refuse". Shorten it, or set truncation to "cut" or "window"'
    )
