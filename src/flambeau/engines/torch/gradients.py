"""Gradients with respect to a model's token embeddings, for explanations.

The embeddings are found by `get_input_embeddings` and replaced by a hook while the model reads the
ids of the text, so that positions, token types and the place that a head looks at are the text's.
What is differentiated is a twin of the served model with Transformers' own attention.
"""

import copy
import inspect
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flambeau.engines.attribution import EmbeddingPath, NoGradientsError, PathPoint, Target
from flambeau.engines.torch.precision import name_precision

if TYPE_CHECKING:
    from flambeau.types import Precision


class GradientModel:
    """A model that is differentiated along paths of embeddings."""

    def __init__(self, model: Any, device: str, *, type_ids: bool) -> None:
        """`model` is in evaluation mode; its parameters are told to want no gradients.

        Raises `NoGradientsError` where it has no embeddings of tokens.
        """
        self._model = model.requires_grad_(False)
        self._device = device
        self._type_ids = type_ids
        self._options = {
            name: value
            for name, value in (("use_cache", False),)
            if name in inspect.signature(model.forward).parameters
        }
        self._layers = _embedding_layers(model)
        self.precision: Precision = name_precision(next(model.parameters()).dtype)

    def points(self, path: EmbeddingPath, positions: Sequence[float]) -> list[PathPoint]:
        """See `engines.attribution.GradientEngine`."""
        rows = len(positions)
        line = _Line(path, positions, self._device)
        with torch.enable_grad(), line.through(self._layers):
            result = self._model(**self._inputs(path, rows), **self._options)
            values = torch.stack([_value(result, target) for target in path.targets])
        if line.embeddings is None:
            raise NoGradientsError("its layer of embeddings is not what reads the tokens")
        slopes = np.empty((len(path.targets), rows, len(path.sequence)))
        for index, value in enumerate(values):
            slopes[index] = line.slopes(value.sum(), last=index == len(values) - 1)
        found = values.detach().double().cpu().numpy()
        return [PathPoint(found[:, row], slopes[:, row]) for row in range(rows)]

    def _inputs(self, path: EmbeddingPath, rows: int) -> dict[str, torch.Tensor]:
        sequence = path.sequence
        made = {"input_ids": sequence.ids, "attention_mask": [1] * len(sequence)}
        if self._type_ids and sequence.type_ids:
            made["token_type_ids"] = sequence.type_ids
        return {
            name: torch.tensor([row], device=self._device).expand(rows, -1)
            for name, row in made.items()
        }


def twin(model: Any, attention: str) -> Any:
    """A model of the same weights with this `attn_implementation`, and without hooks.

    It shares the weights themselves, and is float32 where that costs no memory or there is enough.
    """
    parameters = list(model.parameters())
    single = all(each.dtype == torch.float32 for each in parameters)
    widened = not single and _fits_in_float32(parameters)
    hooks = [(module, module._forward_hooks) for module in model.modules()]  # noqa: SLF001  # to leave out
    for module, _ in hooks:
        module._forward_hooks = OrderedDict()  # noqa: SLF001
    try:
        copied = copy.deepcopy(model, {} if widened else {id(each): each for each in parameters})
    finally:
        for module, own in hooks:
            module._forward_hooks = own  # noqa: SLF001
    if copied.config._attn_implementation != attention:  # noqa: SLF001  # no other way to ask
        copied.set_attn_implementation(attention)
    return copied.float() if widened else copied


def _fits_in_float32(parameters: Sequence[torch.nn.Parameter]) -> bool:
    """Whether a copy in float32 leaves a GPU at least half of what it has free."""
    device = parameters[0].device
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return 2 * 4 * sum(map(torch.Tensor.numel, parameters)) <= free


class _Line:
    """The points of a path as the output of the layer of embeddings, while a model runs."""

    def __init__(self, path: EmbeddingPath, positions: Sequence[float], device: str) -> None:
        self._path = path
        self._positions = torch.tensor(positions, dtype=torch.float32, device=device)[:, None, None]
        self.embeddings: torch.Tensor | None = None
        self._text = self._step = torch.empty(0)

    @contextmanager
    def through(self, layers: Sequence[torch.nn.Module]) -> Iterator[None]:
        """Let these layers give the path's points."""
        handles = [layer.register_forward_hook(self._replace, with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def slopes(self, value: torch.Tensor, *, last: bool) -> Any:
        """Each point's and token's slope of a value: a numpy array `[positions, tokens]`."""
        assert self.embeddings is not None, "the model ran"
        (gradient,) = torch.autograd.grad(
            value, self.embeddings, retain_graph=not last, allow_unused=True
        )
        if gradient is None:
            raise NoGradientsError("its outputs do not depend on its embeddings")
        return (gradient * self._step).sum(-1).double().cpu().numpy()

    def _replace(
        self, layer: torch.nn.Module, arguments: Any, named: Any, output: torch.Tensor
    ) -> torch.Tensor:
        """The hook: what comes instead of a layer's output."""
        ids = arguments[0] if arguments else next(iter(named.values()))
        if self._stands_upright(ids):
            return self._points(layer, output.transpose(0, 1)).transpose(0, 1)
        return self._points(layer, output)

    def _stands_upright(self, ids: torch.Tensor) -> bool:
        """Whether ids are `[tokens, positions]`, as XLNet has them."""
        text = self._path.sequence.ids
        return ids[0].tolist()[: len(text)] != text and ids[:, 0].tolist()[: len(text)] == text

    def _points(self, layer: torch.nn.Module, output: torch.Tensor) -> torch.Tensor:
        if self.embeddings is None:
            return self._begin(layer, output)
        # Decoders of encoder-decoders read the same text again, a place further on.
        if torch.equal(output[0], self._text):
            return self.embeddings
        if torch.equal(output[0, 1:], self._text[:-1]):
            return torch.cat([output[:, :1], self.embeddings[:, :-1]], dim=1)
        raise NoGradientsError("it embeds more than the text's tokens")

    def _begin(self, layer: torch.nn.Module, output: torch.Tensor) -> torch.Tensor:
        """The first call: the layer's own output `[positions, tokens, width]` is the path's end."""
        length = len(self._path.sequence)
        with torch.no_grad():
            self._text = output[0, :length]
            start = torch.zeros_like(self._text)
            if self._path.baseline is not None:
                ids = torch.tensor([self._path.baseline], device=output.device)
                start = layer.forward(ids)[0]
            self._step = self._text - start
            points = start + self._positions.to(start.dtype) * self._step
        self.embeddings = points.requires_grad_()
        if output.shape[1] == length:
            return self.embeddings
        return torch.cat([self.embeddings, output[:, length:]], dim=1)  # the model's own padding


def _embedding_layers(model: Any) -> list[torch.nn.Module]:
    """The layers that embed tokens: encoder-decoders have several that share their weights."""
    try:
        layer = model.get_input_embeddings()
    except NotImplementedError:
        layer = None
    weight = getattr(layer, "weight", None)
    if not isinstance(layer, torch.nn.Module):
        raise NoGradientsError("it names no layer of embeddings")
    if weight is None:
        return [layer]
    return [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding) and module.weight is weight
    ] or [layer]


def _value(result: Any, target: Target) -> torch.Tensor:
    """A target's value in each row: `[rows]`."""
    parts = [place.weight * result[place.output][(slice(None), *place.at)] for place in target]
    return torch.stack(parts).sum(0)
