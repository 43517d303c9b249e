"""The torch engine packs texts into one row, and their answers are those that each has alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from flambeau.engines.base import ModelSource, Outputs, TokenSequence
from flambeau.engines.torch import Engine
from flambeau.errors import LoadError
from flambeau.types import Precision, TaskName

SIZES = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
ROBERTA = {**SIZES, "pad_token_id": 1, "max_position_embeddings": 130}
MODERN = {**SIZES, "pad_token_id": 0, "local_attention": 16, "global_attn_every_n_layers": 2,
          "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}  # fmt: skip
DECODER = {**SIZES, "num_key_value_heads": 1, "pad_token_id": 0}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", SIZES),
    "roberta": ("Roberta", ROBERTA),
    "xlm-roberta": ("XLMRoberta", ROBERTA),
    "camembert": ("Camembert", ROBERTA),
    "distilbert": (
        "DistilBert",
        {"vocab_size": 200, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    ),
    "electra": ("Electra", {**SIZES, "embedding_size": 16}),
    "albert": ("Albert", {**SIZES, "embedding_size": 16}),
    "modernbert": ("ModernBert", MODERN),
    "modernbert-mean": ("ModernBert", {**MODERN, "classifier_pooling": "mean"}),
    "mpnet": ("MPNet", ROBERTA),
    "llama": ("Llama", DECODER),
    "qwen3": ("Qwen3", {**DECODER, "head_dim": 16}),
    "mistral-window": ("Mistral", {**DECODER, "sliding_window": 7}),
    "gpt2": (
        "GPT2",
        {"vocab_size": 200, "n_embd": 32, "n_layer": 2, "n_head": 2, "pad_token_id": 0},
    ),
}
HEADS: dict[TaskName, tuple[str, tuple[str, ...]]] = {
    "text-classification": ("ForSequenceClassification", ("logits",)),
    "token-classification": ("ForTokenClassification", ("logits",)),
    "question-answering": ("ForQuestionAnswering", ("start_logits", "end_logits")),
}
LENGTHS = (4, 50, 7, 7, 23, 100, 1)


def save(folder: Path, architecture: str, sizes: dict[str, Any], task: TaskName) -> Any:
    """Save a random model and return it."""
    config = getattr(transformers, f"{architecture}Config")(**sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, architecture + HEADS[task][0])(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    return model


def load(folder: Path, model: Any, task: TaskName, precision: Precision | None = None) -> Engine:
    """The engine for a saved model."""
    pad = model.config.pad_token_id
    return Engine(
        ModelSource(folder, task, HEADS[task][1], pad_id=pad, max_length=100, precision=precision)
    )


def rows(lengths: Sequence[int] = LENGTHS) -> list[TokenSequence]:
    """Random tokens, with token types that change in the middle."""
    numbers = np.random.default_rng(1)
    return [
        TokenSequence(numbers.integers(5, 200, length).tolist(), [0] * length) for length in lengths
    ]


def assert_equal(found: list[Outputs], expected: list[Outputs]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in other:
            np.testing.assert_allclose(one[name], other[name], atol=1e-4)


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_answers_are_each_texts_own(
    tmp_path: Path, architecture: str, task: TaskName
) -> None:
    """Whatever stands beside it in the row, a text gets what Transformers gives it alone."""
    model = save(tmp_path, *ARCHITECTURES[architecture], task)
    engine = load(tmp_path, model, task)
    assert engine.limits is not None
    assert engine.limits.packed, "this architecture runs packed"
    with torch.inference_mode():
        results = [model(input_ids=torch.tensor([row.ids])) for row in rows()]
    expected = [
        {name: result[name][0].float().numpy() for name in HEADS[task][1]} for result in results
    ]
    assert_equal(engine.forward(rows()), expected)
    assert engine.padding == 0


@pytest.mark.parametrize("architecture", ["roberta", "mpnet", "gpt2", "llama"])
def test_padding_tokens_within_a_text_are_counted_as_transformers_does(
    tmp_path: Path, architecture: str
) -> None:
    """RoBERTa numbers positions without them, a decoder's head looks for the last token before."""
    model = save(tmp_path, *ARCHITECTURES[architecture], "text-classification")
    pad = model.config.pad_token_id
    texts = [[9, 10, pad, 11, 12], [20, 21, 22], [30, 31, 32, 33, pad, pad]]
    if architecture in ("roberta", "mpnet"):
        texts[2] = [30, pad, 32, pad, 33, 34]
    engine = load(tmp_path, model, "text-classification")
    assert engine.limits is not None
    assert engine.limits.packed
    with torch.inference_mode():
        ones = [torch.ones((1, len(text)), dtype=torch.long) for text in texts]
        expected = [
            model(torch.tensor([text]), attention_mask=mask).logits[0].numpy()
            for text, mask in zip(texts, ones, strict=True)
        ]
    found = engine.forward([TokenSequence(text, [0] * len(text)) for text in texts])
    assert_equal(found, [{"logits": each} for each in expected])


def test_positions_that_depend_on_the_longest_text_run_alone(tmp_path: Path) -> None:
    """Dynamic RoPE stretches all positions of a pass by its longest row: no text shares one."""
    sizes = {**DECODER, "max_position_embeddings": 32,
             "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}  # fmt: skip
    model = save(tmp_path, "Llama", sizes, "text-classification")
    engine = load(tmp_path, model, "text-classification")
    assert engine.limits is None
    assert_equal(engine.forward(rows()), [engine.forward([row])[0] for row in rows()])


def test_what_cannot_be_packed_is_padded_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """DeBERTa's attention looks at the whole row: it runs in padded batches, answers the same."""
    sizes = {**SIZES, "relative_attention": True, "position_buckets": 16, "type_vocab_size": 0,
             "pos_att_type": ["c2p", "p2c"]}  # fmt: skip
    model = save(tmp_path, "DebertaV2", sizes, "token-classification")
    with caplog.at_level("INFO", "flambeau"):
        engine = load(tmp_path, model, "token-classification")
    assert "runs in padded batches" in caplog.text
    assert engine.limits is not None
    assert not engine.limits.packed
    with torch.inference_mode():
        results = [model(torch.tensor([row.ids])).logits[0].numpy() for row in rows()]
    assert_equal(engine.forward(rows()), [{"logits": each} for each in results])


def test_the_budget_of_a_packed_pass_is_measured(tmp_path: Path) -> None:
    """After `begin` the engine knows what a pass costs, and cuts micro-batches by that."""
    model = save(tmp_path, "Bert", SIZES, "text-classification")
    engine = load(tmp_path, model, "text-classification")
    packed: Any = engine._packed
    sizes: list[int] = []

    def noted(rows: list[TokenSequence]) -> object:
        sizes.append(sum(map(len, rows)))
        return packed(rows)

    noted.masked = packed.masked  # type: ignore[attr-defined]  # all that the engine asks of it
    engine._packed = noted  # type: ignore[assignment]
    engine.begin(1)
    assert len(set(sizes)) > 1, "passes of one size alone cannot tell the fixed cost from a token's"
    assert engine.limits is not None
    assert 64 <= engine.limits.max_tokens <= 1024


WIDE = {**SIZES, "hidden_size": 128, "intermediate_size": 256}


def test_int8_answers_do_not_depend_on_neighbours(tmp_path: Path) -> None:
    """Activations get a scale per token: a text among others is rounded as it is alone."""
    model = save(tmp_path, "Bert", WIDE, "text-classification")
    engine = load(tmp_path, model, "text-classification", "int8")
    assert engine.precision == "int8"
    together = engine.forward(rows())
    assert_equal(together, [engine.forward([row])[0] for row in rows()])


def test_int8_is_close_to_float32(tmp_path: Path) -> None:
    """Eight bits change a classifier's logits little against their spread."""
    model = save(tmp_path, "Bert", WIDE, "token-classification")
    exact = load(tmp_path, model, "token-classification").forward(rows())
    rounded = load(tmp_path, model, "token-classification", "int8").forward(rows())
    one = np.concatenate([each["logits"] for each in exact])
    other = np.concatenate([each["logits"] for each in rounded])
    assert 0 < np.abs(one - other).max() < 0.15 * np.abs(one).max()
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99


def test_bf16_is_offered_on_the_cpu(tmp_path: Path) -> None:
    """Half precision packs as well, and its outputs are float32 arrays."""
    model = save(tmp_path, "Bert", WIDE, "token-classification")
    engine = load(tmp_path, model, "token-classification", "bf16")
    assert engine.precision == "bf16"
    (output,) = engine.forward(rows()[:1])
    assert output["logits"].dtype == np.float32


def test_int8_without_wide_layers_is_an_error(tmp_path: Path) -> None:
    """A model whose layers are all too narrow is not called int8."""
    model = save(tmp_path, "Bert", SIZES, "text-classification")
    with pytest.raises(LoadError, match="no linear layers"):
        load(tmp_path, model, "text-classification", "int8")
