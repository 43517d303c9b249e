"""Tokens as stretches of the user's own string."""

import msgspec

from flambeau.tasks.base.records import Encoding


class Token(msgspec.Struct, frozen=True):
    """A token that stands for characters of the input: its place in the row and its span."""

    index: int
    start: int
    end: int
    starts_word: bool


def text_tokens(encoding: Encoding, text: str, part: int) -> list[Token]:
    """The tokens of part 0 (text) or 1 (pair) in order, without special and empty ones.

    Spans lose the white space at their ends, which some tokenizers count in. A word starts where
    the pre-tokenizer says so and after every white space, since some pre-tokenizers take a whole
    text for one word.
    """
    tokens: list[Token] = []
    previous_word: int | None = None
    rows = zip(encoding.offsets, encoding.words, encoding.parts, strict=True)
    for index, ((start, end), word, token_part) in enumerate(rows):
        if token_part != part:
            continue
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        if start == end:
            continue
        after_space = start == 0 or text[start - 1].isspace()
        # A character of several tokens repeats its span: only its first token can start a word.
        repeated = bool(tokens) and tokens[-1].start == start
        starts_word = not tokens or (not repeated and (after_space or word != previous_word))
        tokens.append(Token(index, start, end, starts_word))
        previous_word = word
    return tokens
