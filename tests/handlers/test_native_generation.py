"""The native handler generates: texts, conversations, stop strings, streams, and who is stopped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from flambeau.errors import ErrorKind, PredictionError
from flambeau.handlers.native_runs import NativeRun, NativeRuns
from flambeau.handlers.streamed_text import StreamedText
from flambeau.handlers.ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from flambeau.testing.generating_models import Generator, tiny_generator
from flambeau.testing.native import ServedNative
from flambeau.types import Chunk, Field, InferenceRequest, TaskName
from tests.handlers.native_models import one_thread

__all__ = ["one_thread"]

TEXTS = ["the torch carries", "Ada Lovelace lived in", "what a great movie with a nice puppet"]
GREEDY = {"max_new_tokens": 12, "do_sample": False}


class Served:
    """Models behind the native handler, each loaded once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._served: dict[object, ServedNative] = {}

    def folder(self, architecture: Generator, **made: Any) -> Path:
        name = "-".join([architecture, *map(str, made.values())])
        folder = self._root / str(abs(hash(name)))
        return folder if folder.is_dir() else tiny_generator(folder, architecture, **made)

    def get(
        self, architecture: Generator, task: TaskName = "text-generation", **made: Any
    ) -> ServedNative:
        key = (architecture, task, str(made))
        if key not in self._served:
            self._served[key] = ServedNative(self.folder(architecture, **made), task=task)
        return self._served[key]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(tmp_path_factory.mktemp("generators"))


def body(inputs: Any, **parameters: Any) -> dict[str, Any]:
    return {"inputs": inputs, "parameters": parameters}


def test_texts_are_those_of_transformers(served: Served) -> None:
    """In the pipelines' form; without the prompt where that is asked for."""
    model = transformers.AutoModelForCausalLM.from_pretrained(served.folder("gpt2")).eval()
    handler = served.get("gpt2")
    tokenizer = handler.handler._model.tokenizer
    answers = handler(
        *(body(text, **GREEDY) for text in TEXTS),
        body(TEXTS, return_full_text=False, **GREEDY),
    )
    news = []
    for text, answer in zip(TEXTS, answers, strict=False):
        (ids,) = (encoding.ids for encoding in tokenizer._tokenizer.encode_batch([text]))
        made = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
        news.append(tokenizer.decode_after(ids, made[0, len(ids) :].tolist()))
        assert answer == [{"generated_text": text + news[-1]}]
    assert answers[-1] == [[{"generated_text": text}] for text in news]


@pytest.mark.parametrize(
    ("architecture", "task", "key"),
    [
        ("bart", "summarization", "summary_text"),
        ("t5", "text2text-generation", "generated_text"),
        ("t5", "translation", "translation_text"),
    ],
)
def test_models_with_an_encoder_beam_as_the_pipelines_do(
    served: Served, architecture: Generator, task: TaskName, key: str
) -> None:
    """Four beams where neither the model nor the request says otherwise."""
    folder = served.folder(architecture)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    handler = served.get(architecture, task)
    tokenizer = handler.handler._model.tokenizer
    for options in ({}, {"num_beams": 1}, {"min_length": 10, "max_length": 14}):
        parameters = options if "max_length" in options else {"max_new_tokens": 12, **options}
        (answers,) = handler(body(TEXTS, **parameters))
        for text, answer in zip(TEXTS, answers, strict=True):
            (ids,) = (encoding.ids for encoding in tokenizer._tokenizer.encode_batch([text]))
            made = model.generate(torch.tensor([ids]), **{"num_beams": 4} | parameters)
            assert answer == {key: tokenizer.decode(made[0].tolist())}


def test_translations_have_their_languages_tokens(served: Served) -> None:
    """The source's stands in the text, the target's begins the translation."""
    handler = served.get("mbart", "translation")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(served.folder("mbart")).eval()
    languages = handler.handler._model.tokenizer.languages
    tokenizer = handler.handler._model.tokenizer
    languages_given = {"src_lang": "fr_XX", "tgt_lang": "ro_RO"}
    (answer,) = handler(body("the light", max_new_tokens=8, num_beams=2, **languages_given))
    (ids,) = (encoding.ids for encoding in tokenizer._tokenizer.encode_batch(["the light"]))
    assert ids[-1] == languages["en_XX"]
    made = model.generate(
        torch.tensor([[*ids[:-1], languages["fr_XX"]]]),
        forced_bos_token_id=languages["ro_RO"],
        max_new_tokens=8,
        num_beams=2,
    )
    assert made[0, 1] == languages["ro_RO"]
    assert answer == [{"translation_text": tokenizer.decode(made[0].tolist())}]
    (error,) = handler(body("the light", src_lang="en_XX", tgt_lang="xx_XX"))
    assert "'tgt_lang' must be one of the model's 3 languages (en_XX, fr_XX, ro_RO" in str(error)


def test_a_seed_and_sequences(served: Served) -> None:
    """A seed repeats each of several sequences, whatever the neighbours."""
    handler = served.get("gpt2")
    seeded = body("the torch", do_sample=True, seed=5, num_return_sequences=3, max_new_tokens=8)
    (first,) = handler(seeded)
    assert handler("hi", seeded, body("a", do_sample=True))[1] == first
    assert len({each["generated_text"] for each in first}) == 3
    (error,) = handler(body("the torch", do_sample=False, num_return_sequences=2))
    assert isinstance(error, PredictionError)
    assert error.kind is ErrorKind.INVALID_INPUT
    assert "'num_return_sequences' must be 1 without sampling" in error.message


def test_stop_strings_end_a_text(served: Served) -> None:
    """`stop` before the string, `stop_strings` behind it, also where several tokens make it."""
    handler = served.get("gpt2")
    (whole,) = handler(body("the torch", return_full_text=False, **GREEDY))
    text = whole[0]["generated_text"]
    stop = text[5:8]  # in the middle of tokens
    cut = text[: text.index(stop)]
    (before,) = handler(body("the torch", return_full_text=False, stop=["zzz", stop], **GREEDY))
    assert before == [{"generated_text": cut}]
    behind = body("the torch", return_full_text=False, stop_strings=stop, details=True, **GREEDY)
    (answer,) = handler(behind)
    assert answer["outputs"] == [{"generated_text": cut + stop}]
    assert answer["usage"]["finish_reason"] == "stop"
    assert answer["usage"]["generated_tokens"] < 12
    usage = answer["usage"]
    assert usage["tokens"] == usage["prompt_tokens"] + usage["generated_tokens"]
    assert handler.headers(0)["x-flambeau-tokens"] == str(usage["tokens"])


@pytest.mark.parametrize(
    ("architecture", "task"), [("gpt2", "text-generation"), ("t5", "translation")]
)
@pytest.mark.parametrize("ways", [{"num_beams": 2}, {"num_beams": 1, "do_sample": True, "seed": 3}])
def test_stop_strings_end_each_of_several_texts(
    served: Served, architecture: Generator, task: TaskName, ways: dict[str, Any]
) -> None:
    """Beams and samples alike, although their tokens are settled only at the end."""
    asked = {"num_return_sequences": 2, "max_new_tokens": 12, **ways}
    if task == "text-generation":
        asked["return_full_text"] = False
    handler = served.get(architecture, task)
    (whole,) = handler(body("the torch", **asked))
    texts = [text for each in whole for text in each.values()]
    stop = texts[0][len(texts[0]) // 2 :][:3]
    (answer,) = handler(body("the torch", stop=stop, **asked))
    ended = [text for each in answer for text in each.values()]
    assert ended == [text.partition(stop)[0] for text in texts]
    assert ended[0] != texts[0]


def test_lengths(served: Served) -> None:
    """`max_length` counts the prompt of a decoder; one that leaves no room is named."""
    handler = served.get("gpt2")
    (answer,) = handler(body("the torch carries", max_length=12, min_length=12, details=True))
    assert answer["usage"]["tokens"] == 12
    (error,) = handler(body("the torch carries", max_length=2))
    assert "'max_length' must be more than the prompt's" in str(error)


def test_a_conversation_goes_through_the_chat_template(served: Served) -> None:
    """Its special tokens are tokens, the answer is the conversation with one message more."""
    handler = served.get("llama", chat=True)
    messages = [{"role": "user", "content": "the torch"}]
    prompt = "<|im_start|>user\nthe torch<|im_end|>\n<|im_start|>assistant\n"
    chat, text = handler(body(messages, **GREEDY), body(prompt, return_full_text=False, **GREEDY))
    reply = {"role": "assistant", "content": text[0]["generated_text"]}
    assert chat == [{"generated_text": [*messages, reply]}]
    (error,) = handler(body([{"role": "elf", "content": "hi"}]))
    assert "chat template refuses the messages: there is no role elf" in str(error)
    (error,) = served.get("gpt2")(body(messages))
    assert isinstance(error, PredictionError)
    assert error.kind is ErrorKind.INVALID_INPUT
    assert "The model has no chat template" in error.message


class Worker:
    """A model whose batches are opened and stepped by hand; keeps what each request is sent."""

    def __init__(self, served: ServedNative) -> None:
        self.handler, self.context = served.handler, served.context
        self.context.metrics = MetricsCacheYamlImpl(model_name="m")
        self.decode = True
        self.sent: dict[str, list[Chunk | PredictionError]] = {}
        self.runs = NativeRuns(self.handler, self, 0)

    def add_times(self, context: object, milliseconds: float) -> None:
        """Times are told elsewhere."""

    def failed(self, error: BaseException, answers: Any, items: object) -> None:
        raise error

    def add(self, *requests: tuple[str, dict[str, Any]], accept: str = "*/*") -> NativeRun:
        items = [
            InferenceRequest(
                name,
                {"accept": accept},
                [Field("body", "application/json", json.dumps(value).encode())],
            )
            for name, value in requests
        ]

        def emit(index: int, result: Chunk | PredictionError) -> None:
            self.sent.setdefault(items[index].id, []).append(result)

        run = self.runs.open(items, emit)
        self.runs.add(run)
        return run

    def step(self, until: Callable[[], bool] = lambda: False) -> None:
        """Until nothing is open, or as long as it takes."""
        while self.runs and not until():
            self.runs.step()
            self.runs.finished()

    def text(self, name: str) -> str:
        parts = self.sent[name]
        assert all(isinstance(part, Chunk) for part in parts), parts
        assert [part.last for part in parts if isinstance(part, Chunk)][-1]
        return b"".join(part.body for part in parts if isinstance(part, Chunk)).decode()

    def events(self, name: str) -> list[dict[str, Any]]:
        events = self.text(name).split("\n\n")
        assert events.pop() == ""
        return [json.loads(event.removeprefix("data:")) for event in events]


def test_a_stream_is_the_text_in_pieces(served: Served) -> None:
    """Plain parts and events add up to what is answered at once, whole characters each."""
    whole = served.get("gpt2")(body("the torch", return_full_text=False, **GREEDY))[0]
    text = whole[0]["generated_text"]
    worker = Worker(served.get("gpt2"))
    asked = body("the torch", stream=True, **GREEDY)
    worker.add(("plain", asked))
    worker.add(("events", asked), accept="text/event-stream")
    worker.step()
    assert worker.text("plain") == text
    assert len(worker.sent["plain"]) > 3
    first = worker.sent["plain"][0]
    assert isinstance(first, Chunk)
    assert first.content_type.startswith("text/plain")
    events = worker.events("events")
    assert "".join(event["token"]["text"] for event in events) == text
    assert [event["generated_text"] for event in events] == [None] * (len(events) - 1) + [text]
    assert [event["index"] for event in events] == list(range(1, len(events) + 1))
    assert all(event["token"]["logprob"] < 0 for event in events)
    details = events[-1]["details"]
    assert details["finish_reason"] in {"length", "eos_token"}
    assert details["generated_tokens"] == sum(not each["token"]["special"] for each in events)
    head = worker.sent["events"][0]
    assert isinstance(head, Chunk)
    assert head.content_type == "text/event-stream"


def test_a_stream_never_shows_a_stop_string(served: Served) -> None:
    """What may be its beginning is held back, and what is not comes after all."""
    (whole,) = served.get("gpt2")(body("the torch", return_full_text=False, **GREEDY))
    text = whole[0]["generated_text"]
    worker = Worker(served.get("gpt2"))
    stop = text[6:9]
    asked = {"stream": True, **GREEDY}
    worker.add(("stopped", body("the torch", stop=stop, **asked)), accept="text/event-stream")
    worker.add(("not", body("the torch", stop=text[6:9] + "\0", **asked)))
    worker.step()
    events = worker.events("stopped")
    shown = "".join(event["token"]["text"] for event in events)
    assert shown == text[: text.index(stop)] == events[-1]["generated_text"]
    assert events[-1]["details"]["finish_reason"] == "stop_sequence"
    assert worker.text("not") == text


def test_a_stream_ends_with_what_was_held_back(served: Served) -> None:
    """Where the text ends as a stop string would begin, its end comes all the same."""
    (whole,) = served.get("gpt2")(body("the torch", return_full_text=False, **GREEDY))
    text = whole[0]["generated_text"]
    worker = Worker(served.get("gpt2"))
    asked = body("the torch", stream=True, stop=text[-1] + "zzzz", **GREEDY)
    worker.add(("plain", asked))
    worker.add(("events", asked), accept="text/event-stream")
    worker.step()
    assert worker.text("plain") == text
    assert "".join(event["token"]["text"] for event in worker.events("events")) == text


def test_a_stream_whose_batch_is_run_again_repeats_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a batch that lacks memory the halves begin anew, and each client hears its text once."""
    handler = served.get("t5", "translation")
    asked = body("the light", stream=True, min_new_tokens=9, max_new_tokens=9)
    (whole,) = handler(body("the light", num_beams=1, min_new_tokens=9, max_new_tokens=9))
    worker = Worker(handler)
    model: Any = worker.handler._model.engine
    forward, passes = model._model.forward, 0

    def scarce(*args: Any, **inputs: Any) -> Any:
        nonlocal passes
        passes += 1
        if passes == 6:
            raise torch.OutOfMemoryError
        return forward(*args, **inputs)

    monkeypatch.setattr(model._model, "forward", scarce)
    worker.add(("a", asked), ("b", asked), accept="text/event-stream")
    worker.step()
    for name in ("a", "b"):
        events = worker.events(name)
        shown = "".join(event["token"]["text"] for event in events)
        assert shown == events[-1]["generated_text"] == whole[0]["translation_text"]
        assert [event["index"] for event in events] == list(range(1, len(events) + 1))


def test_tokens_that_make_no_character_are_not_kept_for_ever(served: Served) -> None:
    """A model that says nothing else is shown to say so, and costs no more with each token."""
    tokenizer = served.get("gpt2").handler._model.tokenizer
    half = tokenizer.decode([]) or next(
        token for token in range(300) if tokenizer.decode([token]) == "\ufffd"
    )
    text = StreamedText(tokenizer, ())
    shown = [text.add([int(half)]) for _ in range(60)]
    assert len("".join(shown)) > 30


def test_models_with_an_encoder_stream_too(served: Served) -> None:
    """With one beam; the text is that of the answer at once."""
    handler = served.get("t5", "translation")
    (whole,) = handler(body("the light", num_beams=1, max_new_tokens=9))
    worker = Worker(handler)
    worker.add(("a", body("the light", stream=True, max_new_tokens=9)))
    worker.step()
    assert worker.text("a") == whole[0]["translation_text"]


def test_a_request_joins_and_a_withdrawn_one_stops(served: Served) -> None:
    """The newcomer is answered while the first still runs; whose client left gets nothing more."""
    worker = Worker(served.get("gpt2"))
    long = {"min_new_tokens": 100, "max_new_tokens": 100, "stream": True}
    run = worker.add(("left", body("the", **long)), ("stays", body("the", **long)))
    worker.step(until=lambda: "left" in worker.sent and "stays" in worker.sent)
    worker.add(("late", body("the", max_new_tokens=2)))
    worker.step(until=lambda: "late" in worker.sent)
    assert not run.over
    run.withdraw([0])
    before = len(worker.sent["left"])
    worker.step(until=lambda: len(worker.sent["stays"]) > 20)
    assert len(worker.sent["left"]) == before
    assert worker.handler._continuations is not None
    assert len(worker.handler._continuations._session) == 1
    run.withdraw([])
    worker.step()
    assert len(worker.handler._continuations._session) == 0
    assert len(worker.sent["stays"]) < 100


def test_a_stream_that_fails_says_so(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its status is gone: the last event is the error."""
    worker = Worker(served.get("qwen2"))
    asked = body("the torch", stream=True, min_new_tokens=50, max_new_tokens=50)
    worker.add(("a", asked), accept="text/event-stream")
    worker.step(until=lambda: "a" in worker.sent)
    model: Any = worker.handler._model.engine
    monkeypatch.setattr(model._model, "forward", None)
    worker.step()
    assert "failed on this input" in worker.events("a")[-1]["error"]
