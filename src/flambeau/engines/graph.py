"""What the engines of exported graphs share: a graph's interface, and which file holds it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from flambeau.archive.graphs import GRAPH_SUFFIXES, Form, find_graph, forms_of
from flambeau.engines.base import (
    ModelSource,
    RowLimits,
    TokenSequence,
    narrowed,
    pad_rows,
    row_mask,
)
from flambeau.errors import LoadError


class Graph(msgspec.Struct, frozen=True):
    """An exported model's interface: the axes of its inputs, and its outputs in their order.

    An axis is None where it takes any size. `ranks` are the outputs' numbers of axes, and `widths`
    their last axes' sizes, None where the graph does not say.
    """

    file: Path
    inputs: Mapping[str, tuple[int | None, ...]]
    outputs: tuple[str, ...]
    ranks: tuple[int | None, ...]
    widths: tuple[int | None, ...] = ()

    def check(self) -> None:
        """Raise `LoadError` for inputs that nobody can give it."""
        unknown = sorted(self.inputs.keys() - _GRAPH_INPUTS)
        if unknown or "input_ids" not in self.inputs:
            raise LoadError(
                f"{self.file.name} takes {', '.join(self.inputs)}: not a text encoder's inputs"
                f" (input_ids, with or without {', '.join(sorted(_GRAPH_INPUTS - {'input_ids'}))})."
            )
        fixed = next((name for name, axes in self.inputs.items() if any(axes)), None)
        if fixed is not None or any(len(axes) != 2 for axes in self.inputs.values()):
            shape = ", ".join(f"{name} {list(axes)}" for name, axes in self.inputs.items())
            raise LoadError(
                f"{self.file.name} takes rows of one size only ({shape}). Export it with dynamic"
                " batch and sequence axes, as flambeau pack --export does."
            )

    def places(self, source: ModelSource) -> tuple[int, ...]:
        """Which output is which of `source.outputs`: by name, else by order.

        Raises `LoadError` for a graph that was exported for something else.
        """
        wanted = source.outputs
        if set(wanted) <= set(self.outputs):
            places = tuple(self.outputs.index(name) for name in wanted)
        else:
            places = tuple(range(len(wanted)))
        rank = 3 if source.per_token and source.task != "question-answering" else 2
        ranks = [self.ranks[place] for place in places if place < len(self.ranks)]
        hidden = "last_hidden_state" in self.outputs and "last_hidden_state" not in wanted
        if hidden or len(ranks) < len(wanted) or any(found not in (rank, None) for found in ranks):
            raise LoadError(
                f"{self.file.name} gives {', '.join(self.outputs)}: it was not exported for"
                f" {source.task}, which needs {', '.join(wanted)}."
            )
        return places

    def feed(self, rows: Sequence[TokenSequence], fill: int) -> dict[str, npt.NDArray[np.int64]]:
        """The inputs for rows that are padded on the right: arrays `[rows, longest]`."""
        ids = [row.ids for row in rows]
        made = {"input_ids": pad_rows(ids, fill), "attention_mask": row_mask(ids)}
        if "token_type_ids" in self.inputs:
            types = [row.type_ids or [0] * len(row) for row in rows]
            made["token_type_ids"] = pad_rows(types, 0)
        if "position_ids" in self.inputs:
            width = made["input_ids"].shape[1]
            made["position_ids"] = np.tile(np.arange(width, dtype=np.int64), (len(rows), 1))
        return {name: made[name] for name in self.inputs}

    def limits(self, source: ModelSource, limits: RowLimits) -> RowLimits | None:
        """`limits`, or None where rows cannot be padded: without a mask or an id to fill with."""
        if "attention_mask" not in self.inputs or source.pad_id is None:
            return None
        return narrowed(limits, max([width or 1 for width in self.widths], default=1))


_GRAPH_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids"})


def open_form(source: ModelSource, form: Form) -> Path:
    """The file of the graph to run. Raises `LoadError` that says how to make it.

    Where no precision was asked for, a graph that the manifest names is taken whatever it is.
    """
    named = source.file
    if source.precision is None and named is not None and named.suffix in GRAPH_SUFFIXES:
        return named
    if not form.names:
        raise LoadError(
            f"precision is {form.precision}, which the engine {form.engine} does not have."
            f" Allowed: {', '.join(forms_of(form.engine))}."
        )
    file = find_graph(source.model_dir, form)
    if file is not None:
        return file
    advice = f"flambeau pack MODEL --engine {form.engine} --precision {form.precision} makes one."
    if form.precision == "fp32" and find_graph(source.model_dir, Form(form.engine, "int8")):
        advice = "It has an int8 one: set precision: int8 to use that, or export another."
    raise LoadError(
        f"The archive has no {form.precision} graph for the engine {form.engine}: no"
        f" {' and no '.join(form.names)}. {advice}"
    )
