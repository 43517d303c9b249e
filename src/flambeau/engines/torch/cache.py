"""Keys and values of sequences that run together, in memory with room for those to come.

Transformers' `DynamicLayer` copies all it holds with every token. These layers write a token where
there is room for it, and copy when the room is used up, when a sequence leaves, or when others
join. Rows end in the same column; shorter ones have padding before them, which masks hide.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache, CacheLayerMixin
from typing_extensions import override

ROOM = 64
"""Columns of room for new tokens, at least; a quarter of what is there where that is more."""


class Part(NamedTuple):
    """Rows of a layer's cache that go into another: which ones, and from which column on."""

    layer: "GrowingLayer"
    rows: list[int]
    start: int


class GrowingLayer(CacheLayerMixin):  # type: ignore[misc]  # Transformers has no types
    """One layer's keys and values `[rows, heads, columns, width]`, of which `filled` columns count."""

    is_sliding = False  # holds everything; the mask is what keeps a window

    def __init__(self) -> None:
        super().__init__()
        self.filled = 0

    @classmethod
    def merged(cls, parts: Sequence[Part]) -> "GrowingLayer":
        """Rows of several layers, one under the other, padded in front to one length."""
        layer = cls()
        layer.filled = max(part.layer.filled - part.start for part in parts)
        if not all(part.layer.is_initialized for part in parts):
            return layer  # the model never used it: it shares another one's
        layer.keys = _stack([(part.layer.keys, part) for part in parts], layer.filled)
        layer.values = _stack([(part.layer.values, part) for part in parts], layer.filled)
        layer.is_initialized = True
        return layer

    @override
    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        columns = _with_room(key_states.shape[2])
        self.keys = _empty_like(key_states, columns)
        self.values = _empty_like(value_states, columns)
        self.is_initialized = True

    @override
    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.filled = self.filled, self.filled + key_states.shape[2]
        if self.filled > self.keys.shape[2]:
            columns = _with_room(self.filled)
            self.keys = _grown(self.keys, start, columns)
            self.values = _grown(self.values, start, columns)
        self.keys[:, :, start : self.filled] = key_states
        self.values[:, :, start : self.filled] = value_states
        return self.keys[:, :, : self.filled], self.values[:, :, : self.filled]

    @override
    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.filled + query_length, 0

    @override
    def get_seq_length(self) -> int:
        return self.filled

    @override
    def get_max_length(self) -> int:
        return -1


def new_cache(layers: int) -> Cache:
    """An empty cache for a model of so many layers."""
    return Cache(layers=[GrowingLayer() for _ in range(layers)])


def merged_cache(parts: Sequence[tuple[Cache, list[int], int]]) -> Cache:
    """Rows of several caches in one: of each, which rows, and from which column on."""
    layers = zip(*(cache.layers for cache, _, _ in parts), strict=True)
    return Cache(
        layers=[
            GrowingLayer.merged(
                [
                    Part(layer, rows, start)
                    for layer, (_, rows, start) in zip(each, parts, strict=True)
                ]
            )
            for each in layers
        ]
    )


def rewind(cache: Cache, columns: int) -> None:
    """Forget what a pass that failed has written behind so many columns."""
    for layer in cache.layers:
        layer.filled = min(layer.filled, columns)


def _with_room(columns: int) -> int:
    return columns + max(ROOM, columns // 4)


def _empty_like(states: torch.Tensor, columns: int) -> torch.Tensor:
    rows, heads, _, width = states.shape
    return states.new_empty(rows, heads, columns, width)


def _grown(states: torch.Tensor, filled: int, columns: int) -> torch.Tensor:
    grown = _empty_like(states, columns)
    grown[:, :, :filled] = states[:, :, :filled]
    return grown


def _stack(parts: Sequence[tuple[torch.Tensor, Part]], filled: int) -> torch.Tensor:
    first = parts[0][0]
    rows = sum(len(part.rows) for _, part in parts)
    stacked = first.new_empty(rows, first.shape[1], _with_room(filled), first.shape[3])
    row = 0
    for states, part in parts:
        pad = filled - (part.layer.filled - part.start)
        target = stacked[row : row + len(part.rows)]
        target[:, :, :pad] = 0  # masked, but what is no number would still spoil a sum
        whole = part.rows == list(range(states.shape[0]))
        chosen = states if whole else states[part.rows]
        target[:, :, pad:filled] = chosen[:, :, part.start : part.layer.filled]
        row += len(part.rows)
    return stacked
