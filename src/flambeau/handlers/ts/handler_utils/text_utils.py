"""Tokens and n-grams, as torchtext made them (contract.md section 9.7)."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

__all__ = ["get_tokenizer", "ngrams_iterator"]

_SPACED = re.compile(r"[.,()!?]")
_BLANK = re.compile(r"<br />|[;:]")


def ngrams_iterator(token_list: Sequence[str], ngrams: int) -> Iterator[str]:
    """The tokens, then their pairs, and so on up to runs of `ngrams`, joined by blanks."""
    yield from token_list
    for size in range(2, ngrams + 1):
        for start in range(len(token_list) - size + 1):
            yield " ".join(token_list[start : start + size])


def get_tokenizer(tokenizer: Any, language: str = "en") -> Callable[[str], list[str]]:
    """A function from text to tokens.

    `tokenizer` is None (split at white space), "basic_english" (lower case, punctuation as tokens
    of its own, quotation marks dropped), or a function, which is returned as it is. ValueError for
    anything else, and for basic_english in another language than "en".
    """
    if tokenizer is None:
        return str.split
    if callable(tokenizer):
        function: Callable[[str], list[str]] = tokenizer
        return function
    if tokenizer != "basic_english":
        raise ValueError(
            f"unknown tokenizer {tokenizer!r}: use None, 'basic_english' or a function"
        )
    if language != "en":
        raise ValueError("basic_english is for English only: language must be 'en'")
    return _basic_english


def _basic_english(line: str) -> list[str]:
    line = line.lower().replace("'", " ' ").replace('"', "")
    return _SPACED.sub(r" \g<0> ", _BLANK.sub(" ", line)).split()
