"""What is asked of each model: the cases that goldens are made of.

A case is a model of `specs.py`, the pipeline's input and its parameters.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.parity.specs import MODELS

TEXTS = [
    "Ada Lovelace lived in London.",
    "What a terrible day: the rain did not stop!",
    "Zoë 😀 met Jim Henson in Montréal 👩‍👩‍👧!",
    "東京は首都です。 Ada は 本を。",
    "Jim Henson\nwas born\n\nin Mississippi.\tReally?",
    "Ada   Lovelace  wrote   in  London .",
    "  The torch carries light  ",
    "Don't stop: it's 3.5% of $1,250, isn't it?",
    "the [MASK] of [SEP] and </s> <s> [CLS] <mask> here",
    "cafe\u0301 ﬁne \uff21da\u00a0in…Ωmega ☃ x",
    "unbelievable undoing reworking, walkers talked",
    "a",
]
LONG = (
    "Ada Lovelace lived in London and wrote about the engine of Charles Babbage. "
    "Jim Henson was a puppeteer from Mississippi; Zoë 😀 met him in Montréal.\n"
    "The torch carries light  through the night, 東京は日本の首都です, and Doctor Brown works at the "
    "hospital in Boston with Nurse Green. President Smith met Chancellor Meyer in Geneva on Thursday."
)
"""Two to four windows of an encoder of the parity tests."""

QUESTIONS = [
    {"question": "Where did Ada live?", "context": "Ada Lovelace lived in London."},
    {
        "question": "Who met Zoë?",
        "context": "Zoë 😀 met  Jim Henson in Montréal\nand 東京で Émile 👩‍👩‍👧 too.",
    },
    {"question": "What?", "context": "The light shows the way home; the Light is the light."},
]
LONG_QUESTIONS = [
    {"question": "Where does Doctor Brown work?", "context": LONG},
    {"question": "Who was from Mississippi, and when?", "context": LONG[70:330]},
]


class Case(NamedTuple):
    """One call of a pipeline."""

    model: str
    inputs: Any
    parameters: dict[str, Any]


def cases(task: str) -> Iterator[Case]:
    """The cases of a task, in the order of its models."""
    for name, spec in MODELS.items():
        if spec.task == task:
            for inputs, parameters in _ASKED[task](name):
                yield Case(name, inputs, parameters)


Asked = Iterator[tuple[Any, dict[str, Any]]]


def _text_classification(model: str) -> Asked:
    texts = [text for text in TEXTS if "\u0301" not in text] if "gpt2" in model else TEXTS
    for text in texts:
        yield text, {"top_k": None}
    yield TEXTS[0], {}
    yield [TEXTS[0]], {}
    yield TEXTS[:3], {}
    for top_k in (1, 2, 3, 99, None):
        yield TEXTS[1], {"top_k": top_k}
        yield [TEXTS[1]], {"top_k": top_k}
    yield TEXTS[3:6], {"top_k": 2}
    for function in ("none", "sigmoid", "softmax"):
        yield TEXTS[2], {"function_to_apply": function}
        yield TEXTS[:2], {"function_to_apply": function, "top_k": None}
    if "gpt2" not in model and "llama" not in model:
        pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
        yield pair, {}
        yield pair, {"top_k": None}
        yield [pair], {}
        yield [pair, {"text": TEXTS[4], "text_pair": TEXTS[3]}], {"top_k": None}
        yield {"text": TEXTS[5], "text_pair": TEXTS[6]}, {"function_to_apply": "none"}
        yield {"text": TEXTS[5]}, {}
    yield LONG + LONG, {"truncation": True, "top_k": None}


def _token_classification(model: str) -> Asked:
    for text in TEXTS:
        yield text, {}
    for strategy in ("none", "simple", "first", "average", "max"):
        for text in TEXTS[2:] if strategy != "none" else TEXTS[2:3]:
            yield text, {"aggregation_strategy": strategy}
        yield TEXTS[2], {"aggregation_strategy": strategy, "ignore_labels": []}
        yield (
            TEXTS[4],
            {"aggregation_strategy": strategy, "ignore_labels": ["B-PER", "PER", "NOUN"]},
        )
        if strategy != "none":
            for stride in (0, 6, 20) if strategy == "simple" else (16,):
                yield LONG, {"aggregation_strategy": strategy, "stride": stride}
    for text in (LONG, LONG[100:]):
        yield text, {"aggregation_strategy": "simple"}
        yield text, {"aggregation_strategy": "first", "stride": 11, "ignore_labels": []}
    yield [TEXTS[0]], {}
    yield TEXTS[:3], {}
    yield [TEXTS[4], LONG, TEXTS[5]], {"aggregation_strategy": "simple", "stride": 8}


def _question_answering(model: str) -> Asked:
    parameters: list[dict[str, Any]] = [
        {},
        {"top_k": 1},
        {"top_k": 3},
        {"align_to_words": False},
        {"align_to_words": False, "top_k": 4},
        {"max_answer_len": 1, "top_k": 2},
        {"max_answer_len": 3},
        {"max_answer_len": 40, "top_k": 2},
        {"handle_impossible_answer": True},
        {"handle_impossible_answer": True, "top_k": 3},
    ]
    for item in QUESTIONS:
        for given in parameters:
            yield item, given
    for item in LONG_QUESTIONS:
        for given in parameters:
            yield item, given
        yield item, {"doc_stride": 0, "top_k": 2}
        yield item, {"doc_stride": 5}
        yield item, {"doc_stride": 10, "max_seq_len": 52, "top_k": 3}
        yield item, {"max_seq_len": 48, "doc_stride": 4, "max_question_len": 4}
        yield item, {"max_seq_len": 62, "align_to_words": False, "handle_impossible_answer": True}
    yield [QUESTIONS[0]], {}
    yield [QUESTIONS[0]], {"top_k": 2}
    yield QUESTIONS, {}
    yield [*QUESTIONS[:2], LONG_QUESTIONS[0]], {"top_k": 2}


def _fill_mask(model: str) -> Asked:
    bracket = model.split("-")[0] in ("bert", "distilbert", "electra", "albert", "modernbert")
    mask = "[MASK]" if bracket or model.startswith("deberta") else "<mask>"
    one = [
        f"Ada Lovelace lived in {mask}.",
        f"The {mask} carries light, doesn't it ?",
        f"{mask} 😀 met  Émile in\nMontréal .",
        f"東京は{mask}の首都です。",
        f"the [SEP] and </s> or {mask}!",
    ]
    for text in one:
        yield text, {}
        yield text, {"top_k": 2}
    yield [one[0]], {}
    yield one[:2], {"top_k": 3}
    several = f"The {mask} of {mask} was born in {mask}."
    yield several, {}
    yield several, {"top_k": 2}
    yield [several, one[1]], {"top_k": 1}
    yield f"{mask}{mask}", {"top_k": 2}
    yield one[0], {"targets": "the"}
    yield one[0], {"targets": ["the", "Ġthe", "▁the", "London"]}
    yield one[1], {"targets": ["zzzz", "light", "a", "a"], "top_k": 2}
    yield one[1], {"targets": [" light", " the"], "top_k": 9}
    yield several, {"targets": ["a", "the", "in"]}


def _zero_shot(model: str) -> Asked:
    labels = ["politics", "economy and money", "sports"]
    for text in TEXTS[:8]:
        yield text, {"candidate_labels": labels}
    for multi_label in (True, False):
        for asked in (labels, "politics, sports ,, science,", ["sports"], "light"):
            yield TEXTS[1], {"candidate_labels": asked, "multi_label": multi_label}
    yield TEXTS[4], {"candidate_labels": labels, "hypothesis_template": "{} is the topic here."}
    yield TEXTS[4], {"candidate_labels": labels, "hypothesis_template": "Café {{x}} 😀 {}"}
    yield [TEXTS[0]], {"candidate_labels": labels}
    yield TEXTS[:3], {"candidate_labels": labels, "multi_label": True}
    yield TEXTS[:2], {"candidate_labels": "a, b, c, d, e"}
    yield LONG, {"candidate_labels": labels}
    yield LONG, {"candidate_labels": ["a label of many words that is really long", "short"]}


def _features(model: str) -> Asked:
    for index in (0, 2, 3, 5, 11):
        yield TEXTS[index], {}
    yield [TEXTS[11]], {}
    yield [TEXTS[11], TEXTS[6]], {}


def _embeddings(model: str) -> Asked:
    yield TEXTS, {"pooling": "mean", "normalize": False}
    yield TEXTS, {"pooling": "mean", "normalize": True}
    yield TEXTS[:4], {"pooling": "cls", "normalize": False}
    yield [LONG + LONG], {"pooling": "mean", "normalize": True}


def _ranking(model: str) -> Asked:
    yield {"query": "Where did Ada live?", "texts": TEXTS}, {}
    yield {"query": TEXTS[3], "texts": [LONG, *TEXTS[:3]]}, {}


def _generation(model: str) -> Asked:
    greedy: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12}
    prompts = [text for index, text in enumerate(TEXTS) if index not in (3, 9)]
    for text in prompts:
        yield text, greedy
        yield text, {**greedy, "return_full_text": False}
    yield [prompts[0]], greedy
    yield prompts[:3], greedy
    yield prompts[1], {**greedy, "max_new_tokens": 1}
    yield prompts[1], {**greedy, "max_new_tokens": 40, "repetition_penalty": 1.3}
    yield prompts[0], {**greedy, "no_repeat_ngram_size": 2, "max_new_tokens": 24}
    yield prompts[0], {**greedy, "min_new_tokens": 10}
    yield prompts[0], {**greedy, "num_beams": 3}
    yield prompts[0], {**greedy, "num_beams": 3, "num_return_sequences": 2}
    yield prompts[2], {**greedy, "bad_words_ids": [[5], [260]]}
    yield prompts[2], {**greedy, "clean_up_tokenization_spaces": False}
    if "llama" in model:
        chat = [
            {"role": "system", "content": "Be kind ."},
            {"role": "user", "content": "Where is Ada?"},
        ]
        yield chat, greedy
        yield chat, {**greedy, "return_full_text": False}
        yield [chat, chat[1:]], greedy
        yield [*chat, {"role": "assistant", "content": "Ada is"}], greedy


def _text_to_text(model: str) -> Asked:
    texts = [TEXTS[index] for index in (0, 1, 2, 4, 5, 7, 10)]
    short = {"max_new_tokens": 10}
    for text in texts:
        yield text, {**short, "num_beams": 1}
        yield text, short
    yield [texts[0]], short
    yield texts[:3], {**short, "num_beams": 1}
    yield LONG[:110], {**short, "num_beams": 2}
    yield texts[0], {**short, "num_beams": 3, "num_return_sequences": 2}
    yield texts[:2], {**short, "num_beams": 3, "num_return_sequences": 2}
    yield texts[1], {**short, "min_new_tokens": 8, "no_repeat_ngram_size": 2}
    yield texts[1], {**short, "clean_up_tokenization_spaces": True}
    if "marian" in model:
        yield ">>fr<< The house is green.", {}
        yield ">>de<<The house is green.", short
    if "summaries" in model or "t5-translations" in model or "marian" in model:
        yield texts[1], {}
    if "summaries" in model:
        yield texts[:2], {}
        yield LONG[:110], {}


_ASKED = {
    "text-classification": _text_classification,
    "token-classification": _token_classification,
    "question-answering": _question_answering,
    "fill-mask": _fill_mask,
    "zero-shot-classification": _zero_shot,
    "feature-extraction": _features,
    "embeddings": _embeddings,
    "text-ranking": _ranking,
    "text-generation": _generation,
    "text2text-generation": _text_to_text,
    "summarization": _text_to_text,
    "translation": _text_to_text,
}
