"""What the fitted models answer, and how right they are on the held-out files.

Each `score_*` returns named figures between 0 and 1. The models read one text at a time, as a
server would without batching; the held-out files are small.
"""

import re
import string
from collections import Counter
from typing import TYPE_CHECKING

import torch
from demo_data import ENTITY_TAGS, Entity, QuestionAnswer, Review, TaggedSentence
from encoding import context_tokens, encode_tagged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedModel

_LONGEST_ANSWER = 20


@torch.inference_mode()
def _forward(model: "PreTrainedModel", encoding: "Encoding") -> "dict[str, torch.Tensor]":
    return dict(
        model(
            input_ids=torch.tensor([encoding.ids]),
            token_type_ids=torch.tensor([encoding.type_ids]),
        )
    )


def classify(model: "PreTrainedModel", tokenizer: "Tokenizer", text: str) -> tuple[int, float]:
    """Returns the likeliest class and its probability."""
    chances = _forward(model, tokenizer.encode(text))["logits"][0].softmax(-1)
    return int(chances.argmax()), float(chances.max())


def tag(model: "PreTrainedModel", tokenizer: "Tokenizer", text: str) -> list[str]:
    """Returns a tag for every token of the text, special tokens left out."""
    encoding = tokenizer.encode(text)
    best = _forward(model, encoding)["logits"][0].argmax(-1).tolist()
    pairs = zip(best, encoding.special_tokens_mask, strict=True)
    return [ENTITY_TAGS[label] for label, special in pairs if not special]


def entities_of(tags: "Sequence[str]", offsets: "Sequence[tuple[int, int]]") -> list[Entity]:
    """Joins tags to entities; an `I-` after nothing of its kind starts a new one."""
    found: list[Entity] = []
    before = "O"
    for name, (start, end) in zip(tags, offsets, strict=True):
        if name.startswith("I-") and before[1:] == name[1:]:
            found[-1] = Entity(found[-1].start, end, name[2:])
        elif name != "O":
            found.append(Entity(start, end, name[2:]))
        before = name
    return found


def find_entities(model: "PreTrainedModel", tokenizer: "Tokenizer", text: str) -> list[Entity]:
    """Returns the names that the model finds in the text."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return entities_of(tag(model, tokenizer, text), encoding.offsets)


def answer(model: "PreTrainedModel", tokenizer: "Tokenizer", question: str, context: str) -> str:
    """Returns the likeliest span of the context, at most twenty tokens long."""
    encoding = tokenizer.encode(question, context)
    outputs = _forward(model, encoding)
    places = context_tokens(encoding)
    start_logits = outputs["start_logits"][0, places.start : places.stop]
    end_logits = outputs["end_logits"][0, places.start : places.stop]
    scores = start_logits[:, None] + end_logits[None, :]
    allowed = torch.ones_like(scores).triu().tril(_LONGEST_ANSWER - 1).bool()
    best = int(scores.masked_fill(~allowed, float("-inf")).argmax())
    start, end = divmod(best, len(places))
    offsets = encoding.offsets[places.start : places.stop]
    return context[offsets[start][0] : offsets[end][1]]


def score_sentiment(
    model: "PreTrainedModel", tokenizer: "Tokenizer", held_out: "Sequence[Review]"
) -> dict[str, float]:
    """Returns the share of right sentiments."""
    right = sum(classify(model, tokenizer, review.text)[0] == review.label for review in held_out)
    return {"accuracy": right / len(held_out)}


def score_entities(
    model: "PreTrainedModel", tokenizer: "Tokenizer", held_out: "Sequence[TaggedSentence]"
) -> dict[str, float]:
    """Returns F1 of whole entities (range and kind must match) and accuracy of token tags."""
    found, true, both, right, tokens = 0, 0, 0, 0, 0
    for sentence in held_out:
        encoding = tokenizer.encode(sentence.text, add_special_tokens=False)
        tags = tag(model, tokenizer, sentence.text)
        predicted = set(entities_of(tags, encoding.offsets))
        found += len(predicted)
        true += len(sentence.entities)
        both += len(predicted & set(sentence.entities))
        expected = encode_tagged(tokenizer, sentence).labels[1:-1]
        right += sum(ENTITY_TAGS[at] == name for at, name in zip(expected, tags, strict=True))
        tokens += len(expected)
    return {"entity_f1": 2 * both / max(1, found + true), "token_accuracy": right / tokens}


def _normalised(text: str) -> list[str]:
    """Returns lower-case words without punctuation and articles, as SQuAD compares answers."""
    bare = "".join(" " if letter in string.punctuation else letter for letter in text.lower())
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def token_f1(predicted: str, expected: str) -> float:
    """Returns the F1 of the words that two answers share."""
    ours, theirs = _normalised(predicted), _normalised(expected)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / max(1, len(ours) + len(theirs))


def score_questions(
    model: "PreTrainedModel", tokenizer: "Tokenizer", held_out: "Sequence[QuestionAnswer]"
) -> dict[str, float]:
    """Returns the share of exact answers and the mean F1 of the words."""
    pairs = [
        (answer(model, tokenizer, example.question, example.context), example.answer)
        for example in held_out
    ]
    exact = sum(_normalised(ours) == _normalised(theirs) for ours, theirs in pairs)
    return {
        "exact_match": exact / len(pairs),
        "token_f1": sum(token_f1(ours, theirs) for ours, theirs in pairs) / len(pairs),
    }
