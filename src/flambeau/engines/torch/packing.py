"""The packed forward pass: all texts of a micro-batch in one row, without any padding.

Positions begin anew at each text and attention stays within it (`attention`), so that linear layers
get one large matrix of real tokens. The head then gets what it expects: each token's state, or, for
one answer a text, the state of the token that stands for it, as a row of its own.

Not every architecture can run like this. `packed_forward` finds out: it builds the pass, runs a few
rows of different lengths packed and alone, and gives None with a reason where the answers differ.
"""

import inspect
import logging
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flambeau.engines.base import ModelSource, Outputs, RowLimits, TokenSequence, forward_in_groups
from flambeau.engines.torch.attention import PACKED, Layout, packed
from flambeau.errors import first_line

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""How far a packed row's answer may be from the row's alone, in units of the largest value of the
answer where that is above 1; float32. Half precision has `HALF_TOLERANCE`."""

HALF_TOLERANCE = 3e-2

_LONGEST_PROBE = 300

_LAST_LAYERS = ("encoder", "transformer", "final_norm")
"""Names of the part of a base model after which states are final: what follows looks at one token."""


class PackedForward:
    """Runs a model over rows that are packed into one. Changes the model, until `undo`."""

    def __init__(
        self, model: Any, source: ModelSource, device: str, *, type_ids: bool, pad_id: int | None
    ) -> None:
        """`pad_id` is the checkpoint's own padding, None if it has none.

        Raises `NotImplementedError` or `ValueError` where the model cannot be packed.
        """
        if "position_ids" not in inspect.signature(model.forward).parameters:
            raise NotImplementedError("it takes no positions")
        self._model = model
        self._source = source
        self._device = device
        self._type_ids = type_ids
        self._pad = pad_id
        self._skips_pads = _skips_pads(model)
        self._layout: Layout | None = None
        self._head = None if source.per_token else _score_head(model)
        self._before = str(model.config._attn_implementation)  # noqa: SLF001  # no other way to ask
        self._hook: Any = None
        # Models with attention of their own (MPNet) can still be given a mask of blocks.
        self.masked = not model._can_set_attn_implementation()  # noqa: SLF001  # no other way to ask
        if self._head is None and not source.per_token:
            self._hook = _last_layer(model).register_forward_hook(self._one_token_a_text)
        if not self.masked:
            model.set_attn_implementation(PACKED)  # the last step: what fails leaves nothing behind

    def undo(self) -> None:
        """Leave the model as it was."""
        if not self.masked:
            self._model.set_attn_implementation(self._before)
        if self._hook is not None:
            self._hook.remove()

    @torch.inference_mode()
    def __call__(self, rows: Sequence[TokenSequence]) -> dict[str, npt.NDArray[np.float32]]:
        """The outputs by name: `[rows, …]`, or `[tokens of all rows, …]` for one value a token."""
        layout = self._layout = Layout([len(row) for row in rows], self._device)
        inputs = self._inputs(rows)
        with packed(layout):
            if self._head is not None:
                states = self._model.base_model(**inputs, use_cache=False)[0]
                lasts = layout.starts + self._last_tokens(rows)
                return {self._source.outputs[0]: _to_numpy(self._head(states[0, lasts]))}
            result = self._model(**inputs)
        outputs = {name: _to_numpy(result[name]) for name in self._source.outputs}
        return (
            {name: array[0] for name, array in outputs.items()}
            if self._source.per_token
            else outputs
        )

    def _inputs(self, rows: Sequence[TokenSequence]) -> dict[str, torch.Tensor]:
        """Ids, positions and token types as one array, so that one copy brings them to the device."""
        arrays = {
            "input_ids": [token for row in rows for token in row.ids],
            "position_ids": [place for row in rows for place in self._positions(row.ids)],
        }
        if self._type_ids and all(row.type_ids for row in rows):
            arrays["token_type_ids"] = [kind for row in rows for kind in row.type_ids]
        stacked = torch.tensor(list(arrays.values()), dtype=torch.long).to(self._device)
        inputs = {name: stacked[index : index + 1] for index, name in enumerate(arrays)}
        if self.masked:
            texts = torch.repeat_interleave(
                torch.arange(len(rows)), torch.tensor([len(row) for row in rows])
            ).to(self._device)
            dtype = next(self._model.parameters()).dtype
            blocked = torch.zeros((1, 1, len(texts), len(texts)), dtype=dtype, device=self._device)
            blocked.masked_fill_(texts[:, None] != texts[None, :], torch.finfo(dtype).min)
            inputs["attention_mask"] = blocked
        return inputs

    def _positions(self, ids: Sequence[int]) -> Sequence[int]:
        """A text's positions: from 0 on, or as RoBERTa's relatives count, who leave padding out."""
        pad = self._skips_pads
        if pad is None:
            return range(len(ids))
        if pad not in ids:
            return range(pad + 1, pad + 1 + len(ids))
        counted = accumulate(token != pad for token in ids)
        return [pad + place * (token != pad) for place, token in zip(counted, ids, strict=True)]

    def _last_tokens(self, rows: Sequence[TokenSequence]) -> torch.Tensor:
        """Which token stands for each text: the last one that is no padding."""
        places = [
            next((i for i in range(len(row) - 1, -1, -1) if row.ids[i] != self._pad), 0)
            for row in rows
        ]
        return torch.tensor(places, device=self._device)

    def _one_token_a_text(self, _module: Any, _inputs: Any, output: Any) -> Any:
        """Leave, of the states `[1, tokens, width]`, what the head looks at: `[texts, 1, width]`."""
        layout = self._layout
        assert layout is not None, "hooks run within a pass"
        states = output if isinstance(output, torch.Tensor) else output[0]
        if getattr(self._model.config, "classifier_pooling", "cls") == "mean":
            chosen = _means(states[0], layout).unsqueeze(1)
        else:
            chosen = states[0, layout.starts].unsqueeze(1)
        if isinstance(output, torch.Tensor):
            return chosen
        if isinstance(output, tuple):
            return (chosen, *output[1:])
        output.last_hidden_state = chosen
        return output


def packed_forward(
    model: Any,
    alone: Callable[[Sequence[TokenSequence]], list[Outputs]],
    source: ModelSource,
    device: str,
    *,
    type_ids: bool,
    pad_id: int | None,
) -> PackedForward | None:
    """The model's packed pass, or None where its answers would not be those of each row alone.

    `alone` gives the answers that the unchanged model gives to single rows; `pad_id` is the
    checkpoint's own padding.
    """
    forward = None
    try:
        rows = _probe_rows(model.config, source, pad_id)
        expected = [alone([row])[0] for row in rows]
        forward = PackedForward(model, source, device, type_ids=type_ids, pad_id=pad_id)
        everything = RowLimits(sum(map(len, rows)), 0, packed=True)
        found = forward_in_groups(rows, everything, forward, per_token=source.per_token)
        difference = _largest_difference(found, expected)
        reason = f"its answers differ by {difference:.2g}"
    except Exception as error:  # noqa: BLE001  # whatever the model's own code raises
        difference, reason = float("inf"), first_line(error)
    half = next(model.parameters()).dtype in (torch.float16, torch.bfloat16)
    if forward is not None and difference <= (HALF_TOLERANCE if half else TOLERANCE):
        return forward
    if forward is not None:
        forward.undo()
    logger.info(
        "The model runs in padded batches of texts of about one length; packed, %s.", reason
    )
    return None


def _probe_rows(config: Any, source: ModelSource, pad_id: int | None) -> list[TokenSequence]:
    """A few rows of different lengths, one longer than a local attention's window if that fits.

    One has padding's token in it and at its end, which some texts do and some models look for.
    """
    window = getattr(config, "sliding_window", None) or getattr(config, "local_attention", None)
    longest = min(window + 3, _LONGEST_PROBE) if isinstance(window, int) else 23
    special = {source.pad_id, *source.eos_ids}
    usable = [token for token in range(config.vocab_size) if token not in special] or [0]
    step = max(1, len(usable) // 97)
    rows = []
    for number, length in enumerate(min(each, source.max_length) for each in (3, longest, 9, 9)):
        places = range(number * 31, (number * 31 + length) * (step + 1), step + 1)
        ids = [usable[place % len(usable)] for place in places[:length]]
        if number == 2 and pad_id is not None and pad_id < config.vocab_size and length > 3:
            ids[length // 2] = ids[-1] = pad_id
        rows.append(TokenSequence(ids, [0] * (length - length // 2) + [1] * (length // 2)))
    return rows


def _largest_difference(found: Sequence[Outputs], expected: Sequence[Outputs]) -> float:
    largest = 0.0
    for one, other in zip(found, expected, strict=True):
        for name, array in other.items():
            if one[name].shape != array.shape:
                return float("inf")
            scale = max(1.0, float(np.abs(array).max(initial=0.0)))
            difference = float(np.abs(one[name] - array).max(initial=0.0)) / scale
            largest = max(largest, difference if np.isfinite(difference) else float("inf"))
    return largest


def _skips_pads(model: Any) -> int | None:
    """The padding's id in models that count positions from it on, as RoBERTa does; else None."""
    embeddings: Any = getattr(model.base_model, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_inputs_embeds"):
        return int(embeddings.padding_idx)
    return None


def _score_head(model: Any) -> torch.nn.Module | None:
    """The head of decoders' classifiers, which read the last token and find it by the padding."""
    head = getattr(model, "score", None)
    return head if isinstance(head, torch.nn.Module) else None


def _last_layer(model: Any) -> torch.nn.Module:
    base: torch.nn.Module = model.base_model
    for name in _LAST_LAYERS:
        layer = getattr(base, name, None)
        if isinstance(layer, torch.nn.Module):
            return layer
    return base


def _means(states: torch.Tensor, layout: Layout) -> torch.Tensor:
    """The mean state of each text: `[tokens, width]` to `[texts, width]`."""
    lengths = torch.diff(layout.bounds).long()
    texts = torch.repeat_interleave(torch.arange(len(lengths), device=states.device), lengths)
    sums = states.new_zeros((len(lengths), states.shape[1])).index_add_(0, texts, states)
    return sums / lengths.unsqueeze(1).to(states.dtype)


def _to_numpy(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = tensor.float().cpu().numpy()
    return array
