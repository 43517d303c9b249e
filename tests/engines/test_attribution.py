"""The torch engine's gradients are captum's, for every architecture, and leave the engine as it was."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerGradientXActivation, LayerIntegratedGradients

from flambeau.engines.attribution import (
    Attribution,
    EmbeddingPath,
    NoGradientsError,
    Place,
    integrate,
    quadrature,
)
from flambeau.engines.base import TokenSequence
from flambeau.engines.torch import Engine
from flambeau.types import TaskName
from tests.engines.test_packed import ARCHITECTURES, SIZES, load, save

IDS = [2, 9, 17, 30, 44, 55, 66, 3]
STEPS = 24
ALL: dict[str, tuple[str, dict[str, Any]]] = {
    **ARCHITECTURES,
    "deberta-v2": ("DebertaV2", {**SIZES, "relative_attention": True, "position_buckets": 16,
                                 "max_relative_positions": 32, "pos_att_type": ["c2p", "p2c"]}),
    "xlnet": ("XLNet", {"vocab_size": 200, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}),
}  # fmt: skip
LONGFORMER = {**SIZES, "attention_window": 6, "pad_token_id": 1}
BART = {
    "vocab_size": 200, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "eos_token_id": 3, "pad_token_id": 1, "scale_embedding": True,
}  # fmt: skip
PLACES: dict[TaskName, tuple[str, tuple[int, ...]]] = {
    "text-classification": ("logits", (1,)),
    "token-classification": ("logits", (3, 1)),
    "question-answering": ("start_logits", (3,)),
}


def baseline(model: Any) -> tuple[int, ...]:
    pad = model.config.pad_token_id or 0
    return (IDS[0], *[pad] * (len(IDS) - 2), IDS[-1])


def integrated(engine: Engine, path: EmbeddingPath, steps: int = STEPS) -> list[Attribution]:
    """Integrated gradients in passes of seven points."""
    positions, weights = quadrature(steps)
    points = [
        point
        for first in range(0, steps, 7)
        for point in engine.points(path, list(positions[first : first + 7]))
    ]
    start, end = engine.points(path, [0.0, 1.0])
    return integrate(points, weights, start=start, end=end)


def captum(model: Any, ids: tuple[int, ...], output: str, index: tuple[int, ...]) -> Any:
    """captum's attributions and delta over the same steps, positions being the text's."""
    layer = model.get_input_embeddings()

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = model(inputs_embeds=layer(tokens))[output]
        return result

    target = index if len(index) > 1 else index[0]
    text, reference = torch.tensor([IDS]), torch.tensor([ids])
    attributions, delta = LayerIntegratedGradients(forward, layer).attribute(
        text, reference, target=target, n_steps=STEPS, return_convergence_delta=True
    )
    product = LayerGradientXActivation(forward, layer).attribute(text, target=target)
    return [part.sum(-1)[0].detach().numpy() for part in (attributions, product)], delta.item()


@pytest.mark.parametrize("architecture", ALL)
def test_the_gradients_are_captum_s(tmp_path: Path, architecture: str) -> None:
    """Integrated gradients, their delta, and gradient x input, to 1e-4; predictions stay the same."""
    model = save(tmp_path, *ALL[architecture], "text-classification")
    engine = load(tmp_path, model, "text-classification")
    text = TokenSequence(IDS, [0] * len(IDS))
    (before,) = engine.forward([text])
    target = (Place("logits", (1,)),)
    path = EmbeddingPath(text, (target,), baseline(model))
    (found,) = integrated(engine, path)
    (expected, product), delta = captum(model, baseline(model), *PLACES["text-classification"])
    np.testing.assert_allclose(found.tokens, expected, atol=1e-4)
    assert found.delta == pytest.approx(delta, abs=1e-4)
    assert found.value == pytest.approx(before["logits"][1], abs=1e-4)
    (end,) = engine.points(EmbeddingPath(text, (target,)), [1.0])
    np.testing.assert_allclose(end.slopes[0], product, atol=1e-4)
    np.testing.assert_array_equal(engine.forward([text])[0]["logits"], before["logits"])


@pytest.mark.parametrize("task", ["token-classification", "question-answering"])
def test_any_number_of_any_output_is_explained(tmp_path: Path, task: TaskName) -> None:
    """A token's label, a start, and weighted sums, several targets of one pass each for itself."""
    model = save(tmp_path, *ALL["bert"], task)
    engine = load(tmp_path, model, task)
    output, index = PLACES[task]
    one = (Place(output, index),)
    path = EmbeddingPath(
        TokenSequence(IDS), (one, (Place(output, index, 2.0), *one)), baseline(model)
    )
    found, threefold = integrated(engine, path)
    (expected, _), delta = captum(model, baseline(model), output, index)
    np.testing.assert_allclose(found.tokens, expected, atol=1e-4)
    assert found.delta == pytest.approx(delta, abs=1e-4)
    np.testing.assert_allclose(threefold.tokens, 3 * found.tokens, atol=1e-5)


@pytest.mark.parametrize(("architecture", "sizes"), [("Bart", BART), ("Longformer", LONGFORMER)])
def test_every_reading_of_the_tokens_counts(
    tmp_path: Path, architecture: str, sizes: dict[str, Any]
) -> None:
    """BART's decoder reads the text again, Longformer pads it: the sum is the whole difference."""
    model = save(tmp_path, architecture, sizes, "text-classification")
    engine = load(tmp_path, model, "text-classification")
    path = EmbeddingPath(TokenSequence(IDS), ((Place("logits", (0,)),),), baseline(model))
    (found,) = integrated(engine, path, 50)
    assert found.baseline is not None
    assert found.value == pytest.approx(engine.forward([path.sequence])[0]["logits"][0], abs=1e-4)
    assert found.tokens.sum() == pytest.approx(found.value - found.baseline, abs=1e-3)
    assert abs(found.tokens[1:-1]).min() > 0


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_gradients_are_float32_whatever_predictions_are(tmp_path: Path, precision: Any) -> None:
    """Rounded weights are explained in float32: of bf16 the same weights, of int8 the checkpoint's."""
    sizes = {**SIZES, "hidden_size": 64, "intermediate_size": 128}
    model = save(tmp_path, "Bert", sizes, "text-classification")
    engine = load(tmp_path, model, "text-classification", precision)
    assert (engine.precision, engine.gradient_precision()) == (precision, "fp32")
    path = EmbeddingPath(TokenSequence(IDS), ((Place("logits", (1,)),),), baseline(model))
    (found,) = integrated(engine, path)
    (expected, _), _ = captum(model, baseline(model), "logits", (1,))
    np.testing.assert_allclose(found.tokens, expected, atol=1e-4 if precision == "int8" else 0.05)
    assert abs(found.delta or 0) < 1e-3


def test_int8_without_its_checkpoint_has_no_gradients(tmp_path: Path) -> None:
    """Workers outlive their files: what was not loaded then cannot be loaded now."""
    sizes = {**SIZES, "hidden_size": 64, "intermediate_size": 128}
    model = save(tmp_path, "Bert", sizes, "text-classification")
    engine = load(tmp_path, model, "text-classification", "int8")
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(NoGradientsError, match="int8"):
        engine.gradient_precision()


def test_a_pass_with_gradients_takes_about_as_long_as_one_without(tmp_path: Path) -> None:
    """Its tokens, there and back for each target, are at most those of a pass of predictions."""
    engine = load(tmp_path, save(tmp_path, *ALL["bert"], "text-classification"), "text-classification")  # fmt: skip
    target = (Place("logits", (1,)),)
    assert engine.limits is not None
    for targets in (1, 3):
        path = EmbeddingPath(TokenSequence(IDS), (target,) * targets)
        tokens = engine.points_per_pass(path) * len(IDS) * (1 + targets)
        assert 0 < tokens <= engine.limits.max_tokens
    assert engine.points_per_pass(EmbeddingPath(TokenSequence([5] * 2000), (target,))) == 1


def test_a_model_without_embeddings_of_tokens_says_so(tmp_path: Path) -> None:
    """CANINE hashes characters into many tables: it is served, and has no layer to explain by."""
    sizes = {**SIZES, "num_hash_buckets": 64, "downsampling_rate": 2, "upsampling_kernel_size": 2,
             "local_transformer_stride": 8}  # fmt: skip
    model = save(tmp_path, "Canine", sizes, "text-classification")
    engine = load(tmp_path, model, "text-classification")
    assert engine.forward([TokenSequence(IDS)])
    with pytest.raises(NoGradientsError, match="no layer of embeddings"):
        engine.gradient_precision()
