"""The built-in handlers for text with a vocabulary (contract.md sections 9.5 and 9.7)."""

import io
import json
import queue
from typing import Any

import pytest
import torch

from flambeau.errors import LoadError, PredictionError
from flambeau.handlers.ts.handler_utils.hf_batch_streamer import TextIteratorStreamerBatch
from flambeau.handlers.ts.handler_utils.text_utils import get_tokenizer, ngrams_iterator
from flambeau.handlers.ts.torch_handler.contractions import CONTRACTION_MAP
from flambeau.handlers.ts.torch_handler.text_classifier import TextClassifier
from flambeau.types import Chunk

Load = Any  # the fixture of conftest.py

MODEL = """
    import torch
    class TextSentiment(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.EmbeddingBag(4, 2, mode="sum")
        def forward(self, text, offsets):
            return self.embedding(text, offsets)
"""
VOCABULARY = {"<unk>": 0, "good": 1, "not good": 2, "bad": 3}
WEIGHTS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 5.0], [0.0, 2.0]])


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def classifier(load: Load, vocabulary: object = VOCABULARY) -> Any:
    files = {
        "model.py": MODEL,
        "model.pt": saved({"embedding.weight": WEIGHTS}),
        "source_vocab.pt": saved(vocabulary),
        "index_to_name.json": '{"0": "yes", "1": "no"}',
    }
    manifest = {"modelFile": "model.py", "serializedFile": "model.pt"}
    return load(files, "text_classifier", manifest=manifest)


def best(answer: bytes) -> str:
    found: dict[str, float] = json.loads(answer)
    assert sum(found.values()) == pytest.approx(1)
    return max(found, key=lambda label: found[label])


def test_every_row_of_a_batch_is_classified(load: Load) -> None:
    """Each text is a bag of words and pairs of its own; bytes and text are both fine."""
    served = classifier(load)
    answers = served.answer("Good", "It isn't good!", b"<b>BAD</b>", served.item("x", field="data"))
    assert [best(answer) for answer in answers[:3]] == ["yes", "no", "no"]
    assert json.loads(answers[0]) == json.loads(served.answer("good")[0])
    assert set(json.loads(answers[3]).values()) == {0.5}


def test_unknown_words_without_an_index_for_them(load: Load) -> None:
    """They do not count, where the vocabulary has no <unk>; neither does an empty text."""
    served = classifier(load, {"good": 1})
    assert [best(answer) for answer in served.answer("good", "gooder good", "")][:2] == ["yes"] * 2


def test_one_text_that_cannot_be_read(load: Load) -> None:
    """It gets status 400, its neighbour an answer."""
    served = classifier(load)
    bad, good = served.run(b"\xff\xfe", "good")
    assert isinstance(bad[0], PredictionError)
    assert bad[0].status == 400
    assert isinstance(good[0], Chunk)


def test_explanation(load: Load) -> None:
    """The row's words, and shares for its target."""
    served = classifier(load)
    answer = served.answer(served.item("good bad", {"explain": "True"}), "good")[0]
    assert json.loads(answer)["words"] == ["good", "bad"]
    assert "importances" in json.loads(answer)


def test_vocabulary_that_would_run_code(load: Load) -> None:
    """A pickled object is refused; the message says how to save a torchtext vocabulary."""
    with pytest.raises(LoadError, match=r"source_vocab\.pt holds more .*vocab\.get_stoi\(\)"):
        classifier(load, torch.nn.Linear(1, 1))


def test_missing_vocabulary(load: Load) -> None:
    """The message says what to package."""
    with pytest.raises(LoadError, match=r"no source_vocab\.pt.*--extra-files"):
        load({"model.py": MODEL}, "text_classifier", manifest={"modelFile": "model.py"})


def test_clean_up_steps() -> None:
    """The steps that subclasses call one by one."""
    handler = TextClassifier()
    assert (
        handler._expand_contractions("Don't say it's so, y'all") == "Do not say it is so, you all"
    )
    assert handler._remove_accented_characters("Caf\u00e9 \u00df") == "Cafe "
    assert handler._remove_html_tags("<p>a</p>&nbsp;") == "a"
    assert handler._remove_puncutation("a.b,c!") == "abc"
    assert handler.get_word_token(["\u0120a", "b"]) == ["a", "b"]
    shares = handler.summarize_attributions(torch.tensor([[1.0, 1.0]]))
    assert shares.tolist() == [[0.5, 0.5]]
    assert CONTRACTION_MAP["won't've"] == "will not have"


def test_tokens_and_ngrams() -> None:
    """As torchtext makes them."""
    basic = get_tokenizer("basic_english")
    assert basic('You can\'t "do" it<br />now, (yes); ok!') == (
        ["you", "can", "'", "t", "do", "it", "now", ",", "(", "yes", ")", "ok", "!"]
    )
    assert get_tokenizer(None)("a  B") == ["a", "B"]
    assert get_tokenizer(list)("ab") == ["a", "b"]
    for name, language in (("spacy", "en"), ("basic_english", "de")):
        with pytest.raises(ValueError, match="basic_english"):
            get_tokenizer(name, language)
    assert list(ngrams_iterator(["a", "b", "c"], 3)) == ["a", "b", "c", "a b", "b c", "a b c"]


class Letters:
    """A tokenizer whose tokens are characters."""

    def decode(self, tokens: list[int], **_: object) -> str:
        return "".join(map(chr, tokens))


def test_batch_streamer_streams_until_the_last_row_ends() -> None:
    """A row that has no more text gives empty ones; nothing of another row is lost."""
    streamer = TextIteratorStreamerBatch(Letters(), 2, skip_prompt=True, timeout=60)
    streamer.put(torch.tensor([[1, 2], [3, 4]]))  # the prompt
    for step in zip("ab c d ", "abcdef ", strict=True):
        streamer.put(torch.tensor([ord(letter) for letter in step]))
    streamer.end()
    steps = list(streamer)
    assert ["".join(step[row]["text"] for step in steps) for row in (0, 1)] == [
        "ab c d ",
        "abcdef ",
    ]
    with pytest.raises(ValueError, match="2 rows are streamed, and the tensor has 3"):
        streamer.put(torch.tensor([1, 2, 3]))


def test_batch_streamer_gives_up() -> None:
    """A step that does not come within `timeout` seconds is an error."""
    streamer = TextIteratorStreamerBatch(Letters(), 1, timeout=0.01)
    with pytest.raises(queue.Empty):
        next(streamer)
