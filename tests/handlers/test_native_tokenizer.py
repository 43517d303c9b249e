"""Where tokenizers come from, and what they cut."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models

from flambeau import tasks
from flambeau.errors import LoadError, PredictionError
from flambeau.handlers.settings import HandlerSettings
from flambeau.handlers.tokenizer_files import load_tokenizer, model_positions
from flambeau.tasks.base import Encoding, Reading, TextInput, WindowRule
from flambeau.testing.models import MAX_POSITIONS, Architecture, tiny_model
from flambeau.types import TaskName


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("bert"), "text-classification")


def load(folder: Path, task: TaskName = "text-classification", **settings: Any) -> Any:
    config = folder / "config.json"
    values = json.loads(config.read_text()) if config.is_file() else {}
    return load_tokenizer(folder, HandlerSettings(**settings), values, tasks.load(task))


def read(
    tokenizer: Any, text: str, pair: str | None = None, rule: WindowRule | None = None
) -> Reading:
    (reading,) = tokenizer.encode([TextInput(text, pair)], [rule or WindowRule()])
    assert isinstance(reading, Reading)
    return reading


def encode(tokenizer: Any, text: str, pair: str | None = None) -> Encoding:
    """The tokens of what fits into one window."""
    return read(tokenizer, text, pair).windows[0]


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2"])
@pytest.mark.parametrize("pair", [None, "", "lived in London"])
def test_ids_are_those_of_transformers(
    tmp_path: Path, architecture: Architecture, pair: str | None
) -> None:
    """Ids and token types equal AutoTokenizer's, also for the empty pair."""
    folder = tiny_model(tmp_path, "text-classification", architecture)
    expected = transformers.AutoTokenizer.from_pretrained(folder)("Ada, who?", pair)
    reading = read(load(folder), "Ada, who?", pair)
    encoding = reading.windows[0]
    assert encoding.ids == expected["input_ids"]
    assert encoding.type_ids == expected.get("token_type_ids", [])
    assert not reading.truncated


def test_saved_truncation_and_padding_are_ignored(bert: Path, tmp_path: Path) -> None:
    """A file that was saved with truncation and padding switched on tokenises like any other."""
    saved = Tokenizer.from_file(str(bert / "tokenizer.json"))
    saved.enable_truncation(4)
    saved.enable_padding(length=50)
    saved.save(str(tmp_path / "tokenizer.json"))
    text = "the movie was great"
    assert encode(load(tmp_path), text).ids == encode(load(bert), text).ids


def test_truncation_is_noticed(bert: Path) -> None:
    """A text that fits exactly is whole; one token more is cut and says so."""
    tokenizer = load(bert, max_length=6)
    assert not read(tokenizer, "the movie was great").truncated
    cut = read(tokenizer, "the movie was great movie")
    assert cut.truncated
    assert len(cut.windows[0].ids) == 6
    assert cut.length == 7
    assert cut.characters_used == len("the movie was great")
    assert cut.windows[0].tokens[-1] == "[SEP]"


def test_texts_of_megabytes_cost_no_more_than_short_ones(bert: Path) -> None:
    """Only what can be read is tokenised: the tokens are those of the text's beginning."""
    tokenizer = load(bert, "question-answering", max_length=8)
    reading = read(tokenizer, "who", "Jim " * 2_000_000)
    assert reading.truncated
    assert reading.windows[0].ids == encode(tokenizer, "who", "Jim " * 20).ids
    hidden = read(tokenizer, "who", "Jim" + " " * 10_000 + "Henson")
    assert hidden.truncated
    assert "Henson" not in hidden.windows[0].tokens


def test_prompts_lose_their_beginning(tmp_path: Path) -> None:
    """Generation goes on from the end of a text, so that the end is kept."""
    folder = tiny_model(tmp_path, "text-generation", "gpt2")
    reading = read(load(folder, "text-generation", max_length=2), "the movie was great")
    encoding = reading.windows[0]
    assert reading.truncated
    assert encoding.tokens[-1] == encode(load(folder, "text-generation"), "great").tokens[-1] or (
        "great".endswith(encoding.tokens[-1].removeprefix("Ġ"))
    )


def test_continuations_keep_their_first_space(tmp_path: Path) -> None:
    """Tokenizers of the SentencePiece kind drop a first space; behind a prompt it stays."""
    vocabulary = {"<unk>": 0, "\u2581the": 1, "\u2581torch": 2, "es": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load(tmp_path, "text-generation")
    assert loaded.decode_after([1], [2, 3]) == " torches"
    assert loaded.decode_after([2], [3]) == "es"
    assert loaded.decode_after([], [2]) == "torch"


def test_one_question_that_is_too_long_fails_alone(bert: Path) -> None:
    """The tokenizer's error for one pair does not fail the batch."""
    tokenizer = load(bert, "question-answering", max_length=8)
    long, short = tokenizer.encode([TextInput("who " * 20, "Jim"), TextInput("who", "Jim " * 20)])
    assert isinstance(long, PredictionError)
    assert isinstance(short, Reading)
    assert short.truncated
    assert len(short.windows[0].ids) == 8


def test_windows_cover_the_whole_text(bert: Path) -> None:
    """Overlapping windows, in order, hold every token; each has its special tokens and length."""
    tokenizer = load(bert, max_length=8)
    text = " ".join(["the movie was great"] * 6)
    whole = encode(load(bert), text)
    reading = read(tokenizer, text, rule=WindowRule("window", stride=2))
    assert not reading.truncated
    assert reading.length == len(whole.ids)
    assert reading.characters_used == len(text)
    spans = [
        [span for span, part in zip(window.offsets, window.parts, strict=True) if part == 0]
        for window in reading.windows
    ]
    assert all(len(window.ids) <= 8 and window.tokens[0] == "[CLS]" for window in reading.windows)
    for before, after in pairwise(spans):
        assert before[-2:] == after[:2]
    assert sorted({span for window in spans for span in window}) == whole.offsets[1:-1]


def test_refused_texts_are_told_both_lengths(bert: Path) -> None:
    """Whoever wants no text cut hears how long it is and how much the model reads."""
    tokenizer = load(bert, max_length=6)
    refuse = WindowRule("refuse")
    assert read(tokenizer, "the movie was great", rule=refuse).length == 6
    (refused,) = tokenizer.encode([TextInput("the movie was great movie")], [refuse])
    assert isinstance(refused, PredictionError)
    assert "7 tokens and the model reads 6" in refused.message


def test_a_stride_without_room_is_refused(bert: Path) -> None:
    """Windows that would not move on are an error that says how many tokens there are."""
    tokenizer = load(bert, max_length=6)
    (wrong,) = tokenizer.encode([TextInput("the movie " * 9)], [WindowRule("window", stride=4)])
    assert isinstance(wrong, PredictionError)
    assert "'stride' is 4" in wrong.message


def test_windows_of_a_pair_go_over_the_longer_text(bert: Path) -> None:
    """The shorter text is in every window."""
    tokenizer = load(bert, max_length=10)
    rule = WindowRule("window")
    for text, pair in [("who", "the movie was great " * 4), ("the movie was great " * 4, "who")]:
        reading = read(tokenizer, text, pair, rule)
        assert len(reading.windows) > 2
        assert all("who" in window.tokens for window in reading.windows)
        assert reading.characters_used == len((text + pair).rstrip()) - (text.endswith(" "))


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"max_position_embeddings": 512, "model_type": "bert"}, 512),
        ({"max_position_embeddings": 514, "model_type": "roberta", "pad_token_id": 1}, 512),
        ({"max_position_embeddings": 514, "model_type": "camembert"}, 512),
        ({"n_positions": 1024, "model_type": "gpt2"}, 1024),
        ({"model_type": "xlnet"}, None),
    ],
)
def test_positions(config: dict[str, object], positions: int | None) -> None:
    """RoBERTa's family spends positions on its padding's id."""
    assert model_positions(config) == positions


def test_insane_tokenizer_limits_do_not_count(bert: Path, tmp_path: Path) -> None:
    """The huge number that means "no limit" is none; a sane one is."""
    (tmp_path / "tokenizer.json").write_bytes((bert / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000}')
    assert load(tmp_path).max_length == 4096
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    assert load(tmp_path).max_length == 77
    assert load(bert).max_length == MAX_POSITIONS


def test_lower_case_follows_the_file(bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A setting that differs from the tokenizer's file is told and not followed."""
    tokenizer = load(bert, do_lower_case=True)
    assert encode(tokenizer, "Ada").tokens == ["[CLS]", "Ada", "[SEP]"]
    assert len(caplog.records) == 1
    caplog.clear()
    load(bert, do_lower_case=False)
    assert not caplog.records


def test_vocabulary_without_tokenizer_json(bert: Path, tmp_path: Path) -> None:
    """An archive with only vocab.txt gets its tokenizer from Transformers."""
    vocabulary = Tokenizer.from_file(str(bert / "tokenizer.json")).get_vocab()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=lambda t: vocabulary[t])))
    (tmp_path / "config.json").write_bytes((bert / "config.json").read_bytes())
    text = "Ada lived in London"
    assert encode(load(tmp_path, do_lower_case=False), text).ids == encode(load(bert), text).ids
    assert encode(load(tmp_path, do_lower_case=True), "A").tokens == ["[CLS]", "a", "[SEP]"]


def test_tokenizer_from_the_cache(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An old archive without a tokenizer uses model_name's, from the cache, with one warning."""
    cache = tmp_path / "hub" / "models--someone--tiny"
    snapshot = cache / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (snapshot / name).write_bytes((bert / name).read_bytes())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    archive = tmp_path / "archive"
    archive.mkdir()
    tokenizer = load(archive, model_name="someone/tiny")
    assert tokenizer.max_length == MAX_POSITIONS
    assert encode(tokenizer, "Ada lived").ids == encode(load(bert), "Ada lived").ids
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "someone/tiny" in caplog.text


def test_no_tokenizer_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the model, what was tried and the way out."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "notes.txt").touch()
    with pytest.raises(LoadError) as caught:
        load(archive, model_name="someone/missing")
    for part in ("someone/missing on the hub", "notes.txt", "Add tokenizer.json"):
        assert part in caught.value.message


def test_broken_tokenizer_json(tmp_path: Path) -> None:
    """A file that the library cannot read is named."""
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(LoadError, match=r"tokenizer\.json cannot be read"):
        load(tmp_path)
