"""Attention over a packed row: every text sees itself alone.

Transformers' models call a function that they find by name in its `AttentionInterface`; ours is
registered there as `flambeau_packed`. It takes queries, keys and values of one row of tokens and the
layout of that row, which `packed` provides for the time of one forward pass: models hand their
keyword arguments on in too many different ways to send it along.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

PACKED = "flambeau_packed"
"""The name under which Transformers finds the function; also its `attn_implementation`."""


class Run(NamedTuple):
    """Texts of one length that stand side by side in the row."""

    start: int
    texts: int
    length: int


class Layout:
    """Where each text stands in a packed row of `total` tokens on `device`."""

    def __init__(self, lengths: Sequence[int], device: str) -> None:
        self.total = sum(lengths)
        self.longest = max(lengths)
        self.runs: list[Run] = []
        ends = []
        start = 0
        for length in lengths:
            last = self.runs[-1] if self.runs else None
            if last is not None and last.length == length:
                self.runs[-1] = last._replace(texts=last.texts + 1)
            else:
                self.runs.append(Run(start, 1, length))
            start += length
            ends.append(start)
        bounds = torch.tensor([0, *ends], dtype=torch.int32)
        self.starts = bounds[:-1].long().to(device)
        self.bounds = bounds.to(device)
        """Cumulative lengths from 0 on, int32, one more than there are texts."""


_layouts: list[Layout] = []
"""The layout of the forward pass that runs, if one does: an engine is used by one thread."""


@contextmanager
def packed(layout: Layout) -> Iterator[None]:
    """Let models whose attention is `PACKED` take their rows as laid out like this."""
    _layouts.append(layout)
    try:
        yield
    finally:
        _layouts.pop()


def packed_attention(  # noqa: PLR0913, PLR0917  # Transformers' signature
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001
    scaling: float | None = None,
    dropout: float = 0.0,  # noqa: ARG001  # inference only
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each text. `[1, heads, tokens, width]` to `[1, tokens, heads, width]`.

    `sliding_window` is as Transformers' attention functions have it: a token sees those less than
    so many places away. Raises `NotImplementedError` for what it cannot do: biases and soft caps.
    """
    if any(unused.get(name) is not None for name in ("position_bias", "softcap", "s_aux")):
        raise NotImplementedError("packed attention has no position biases, soft caps or sinks")
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    layout = _layouts[-1]
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        return _varlen(layout, (query, key, value), scaling, causal, sliding_window), None
    if key.shape[1] != query.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    parts = [
        _attend(run, (query, key, value), scaling, causal, sliding_window) for run in layout.runs
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), None


def _attend(
    run: Run,
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    scaling: float | None,
    causal: bool,
    window: int | None,
) -> torch.Tensor:
    """Attention of texts of one length, as a batch. Gives `[1, tokens, heads, width]`."""
    end = run.start + run.texts * run.length
    query, key, value = (
        state[0, :, run.start : end]
        .view(state.shape[1], run.texts, run.length, state.shape[3])
        .transpose(0, 1)
        for state in states
    )
    mask = None
    if window is not None and run.length > window:
        places = torch.arange(run.length, device=query.device)
        distance = places[:, None] - places[None, :]
        mask = distance.abs() < window
        if causal:
            mask &= distance >= 0
    attended = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling, is_causal=causal and mask is None
    )
    return attended.transpose(1, 2).flatten(0, 1).unsqueeze(0)


def _varlen(
    layout: Layout,
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    scaling: float | None,
    causal: bool,
    window: int | None,
) -> torch.Tensor:
    """The same on a GPU in half precision: one kernel for all texts, PyTorch's own."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (state[0].transpose(0, 1).contiguous() for state in states)
    side = -1 if window is None else window - 1
    attended = varlen_attn(
        query,
        key,
        value,
        layout.bounds,
        layout.bounds,
        layout.longest,
        layout.longest,
        scale=scaling,
        window_size=(side, 0 if causal else side),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended, torch.Tensor), "asked for no log-sum-exp"
    return attended.unsqueeze(0)


def _no_mask(*_arguments: Any, **_named: Any) -> None:
    """A packed row needs no mask: the attention function knows where texts begin."""


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, _no_mask)
