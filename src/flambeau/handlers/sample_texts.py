"""Texts to compare and to time engines with, where the user gives none.

Made of phrases by a seeded generator: as long as real ones (lognormal, 30 tokens in the mean), from
one word to more than a model reads, with names, numbers and opinions in them. Pure.
"""

import random
from collections.abc import Iterator

from flambeau.tasks.base import TextInput
from flambeau.types import TaskName

_SUBJECTS = (
    "the film", "this book", "our guide", "the waiter", "Ada Lovelace", "Jim Henson", "the museum",
    "my new phone", "the last train", "Angela Merkel", "the hotel in Paris", "a court in Berlin",
    "the second album", "customer service", "the United Nations", "nobody in London", "the recipe",
)  # fmt: skip
_VERBS = (
    "was", "seemed", "turned out to be", "is still", "has never been", "could have been", "became",
    "looked", "will hardly be", "was said to be", "felt", "is, as of 2024,",
)  # fmt: skip
_OPINIONS = (
    "wonderful", "a complete waste of time", "worth every cent", "dull", "quite all right",
    "the best of the year", "broken after three days", "nothing special", "surprisingly funny",
    "far too expensive", "slow and rude", "as good as they say", "terrible", "a pleasure to use",
)  # fmt: skip
_LINKS = ("and", "but", "although", "because", "while", "so", "and yet", "whereas", "; besides,")
_CLOSINGS = (".", "!", "?", "…", ".", ".")
_QUESTIONS = (
    "What was wonderful?", "Who was dull?", "What turned out to be broken?", "Who lives in London?",
    "Where is the hotel?", "What did nobody like?",
)  # fmt: skip

_MEAN_LOG, _DEVIATION = 2.7, 0.8
"""Of the logarithm of a text's length in words: 20 words in the mean, 1 in 100 above 95."""
_LONGEST_WORDS = 400


def sample_texts(count: int, seed: int = 0) -> list[str]:
    """So many different texts; the first has one word, the second more than most models read."""
    draw = random.Random(seed)  # noqa: S311 - texts, no secrets
    texts = dict.fromkeys(["good", _text(draw, _LONGEST_WORDS)])
    while len(texts) < count:
        words = min(_LONGEST_WORDS, max(1, round(draw.lognormvariate(_MEAN_LOG, _DEVIATION))))
        texts[_text(draw, words)] = None
    return list(texts)[:count]


def sample_entries(task: TaskName, count: int, seed: int = 0) -> list[TextInput]:
    """`sample_texts` as what a task reads: with a question or a label's sentence, where it does."""
    texts = sample_texts(count, seed)
    if task == "zero-shot-classification":
        return [TextInput(text, "This example is about travel.") for text in texts]
    if task not in ("question-answering", "text-ranking"):
        return [TextInput(text) for text in texts]
    return [
        TextInput(_QUESTIONS[index % len(_QUESTIONS)], text) for index, text in enumerate(texts)
    ]


def _text(draw: random.Random, words: int) -> str:
    """A text of about so many words."""
    return " ".join([*_words(draw, words)][:words])


def _words(draw: random.Random, count: int) -> Iterator[str]:
    made = 0
    while made < count:
        clauses = []
        for _ in range(draw.randint(1, 3)):
            subject, verb, opinion = map(draw.choice, (_SUBJECTS, _VERBS, _OPINIONS))
            clauses.append(f"{subject} {verb} {opinion}")
        sentence = f" {draw.choice(_LINKS)} ".join(clauses)
        sentence = sentence[0].upper() + sentence[1:] + draw.choice(_CLOSINGS)
        yield from sentence.split()
        made += len(sentence.split())
