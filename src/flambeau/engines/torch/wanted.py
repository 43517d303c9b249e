"""Keeps a model's head to the tokens whose outputs are wanted.

A masked language model's head gives a number for each token of the vocabulary, 250,000 in
multilingual ones: of all tokens of a pass that would be a gigabyte, and twice the work of all layers
before. What the head reads are the base model's last states, so that leaving those of the wanted
tokens is enough. Not every model is built like this: `wanted_states` finds out.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from flambeau.engines.base import ModelSource, TokenSequence, wanted_places
from flambeau.errors import first_line

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""How far a number may be from the same with all states, in units of the largest; float32. Half
precision has `HALF_TOLERANCE`."""

HALF_TOLERANCE = 3e-2

_PROBE_TOKENS = 7


class WantedStates:
    """A hook on a model that leaves, within `only`, the states of the tokens that are wanted."""

    def __init__(self, model: Any) -> None:
        self._places: tuple[torch.Tensor, torch.Tensor] | None = None
        self._hook = model.base_model.register_forward_hook(self._leave)

    def undo(self) -> None:
        """Leave the model as it was."""
        self._hook.remove()

    @contextmanager
    def only(self, rows: Sequence[TokenSequence], device: str, *, packed: bool) -> Iterator[None]:
        """Within it, outputs per token are `[1, wanted tokens of all rows, …]`."""
        lines, columns = wanted_places(rows, packed=packed)
        self._places = torch.from_numpy(lines).to(device), torch.from_numpy(columns).to(device)
        try:
            yield
        finally:
            self._places = None

    def _leave(self, _module: Any, _inputs: Any, output: Any) -> Any:
        if self._places is None:
            return None
        states = output[0]
        chosen = states[self._places].unsqueeze(0)
        if isinstance(output, tuple):
            return (chosen, *output[1:])
        output.last_hidden_state = chosen
        return output


def wanted_states(
    model: Any, run: Callable[[list[TokenSequence]], dict[str, Any]], source: ModelSource
) -> WantedStates | None:
    """The hook on a model, or None where its head reads more than the wanted states.

    `run` gives the outputs `[rows, tokens, …]` of equally long rows.
    """
    length = min(_PROBE_TOKENS, source.max_length)
    places = sorted({0, length // 2, length - 1})
    rows = [
        TokenSequence(
            [5 + number + place for place in range(length)], [0] * length, wanted=places[number:]
        )
        for number in (0, 1)
    ]
    states = None
    try:
        full = run(rows)
        states = WantedStates(model)
        with states.only(rows, str(model.device), packed=False):
            found = run(rows)
        expected = {name: each[wanted_places(rows, packed=False)] for name, each in full.items()}
        half = model.dtype in (torch.float16, torch.bfloat16)
        reason = _difference(expected, found, HALF_TOLERANCE if half else TOLERANCE)
    except Exception as error:  # noqa: BLE001  # whatever the model's own code raises
        reason = first_line(error)
    if reason is None:
        return states
    if states is not None:
        states.undo()
    logger.info("The head computes all tokens' outputs; of those that are wanted, %s.", reason)
    return None


def _difference(
    expected: Mapping[str, Any], found: Mapping[str, Any], tolerance: float
) -> str | None:
    """What is wrong with outputs `[1, wanted, …]`, or None."""
    for name, array in expected.items():
        if found[name].shape != (1, *array.shape):
            return f"the {name} have the shape {found[name].shape}"
        scale = max(1.0, float(np.abs(array).max()))
        gap = float(np.abs(found[name][0] - array).max()) / scale
        if not gap <= tolerance:
            return f"the {name} differ by {gap:.2g}"
    return None
