"""The engine: packed where that is right, else padded batches of texts of about one length."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flambeau.cost import CostModel
from flambeau.engines.attribution import EmbeddingPath, NoGradientsError, PathPoint
from flambeau.engines.base import (
    CPU_LIMITS,
    GPU_LIMITS,
    LARGEST_OUTPUT,
    MEDIA_TASKS,
    ModelSource,
    Outputs,
    RowLimits,
    TokenSequence,
    count_padding,
    forward_in_groups,
    narrowed,
    only_some,
    pad_rows,
    pick_device,
    row_mask,
)
from flambeau.engines.generation import AtOnce, Session
from flambeau.engines.torch.cohort import Decoder
from flambeau.engines.torch.continuous import Continuous
from flambeau.engines.torch.gradients import GradientModel, twin
from flambeau.engines.torch.loading import load_model, takes_type_ids
from flambeau.engines.torch.packing import PackedForward, packed_forward
from flambeau.engines.torch.precision import apply_precision
from flambeau.engines.torch.wanted import wanted_states
from flambeau.engines.torch.whole import Whole
from flambeau.errors import LoadError
from flambeau.types import Precision

CPU_BUDGET = (64, 1_024)
GPU_BUDGET = (1_024, 65_536)
"""The fewest and the most tokens of a packed micro-batch, whatever was measured. On a CPU, twice as
many would gain nothing and take twice the memory in each worker."""

MASKED_BUDGET = {True: 512, False: 4_096}
"""The most, on a CPU and on a GPU, where attention looks at the whole row: it costs the square."""

GRADIENT_TOKENS = {True: 1_024, False: 8_192}
"""The most of a pass with gradients, whose states are all kept, on a CPU and on a GPU."""
LARGEST_GPU_OUTPUT = 4 << 30
"""`LARGEST_OUTPUT` on a GPU."""

PROBE_TOKENS = (128, 16)
"""Sizes of the passes that are timed before the first request; what comes first also pays for what
is set up once, which weighs less in a long one."""


def _depends_on_company(config: Any, max_length: int) -> bool:
    """Whether positions are scaled by the longest row of a pass, so that rows must run alone."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if not isinstance(rope, dict) or rope.get("rope_type") not in ("dynamic", "longrope"):
        return False
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    return max_length > int(original)


class Engine:
    """A Transformers model in float32 on a CPU, in half precision on a GPU, unless told otherwise."""

    forks = True

    def __init__(self, source: ModelSource) -> None:
        self._source = source
        self.device = pick_device(source.gpu, cuda_available=torch.cuda.is_available())
        self.padding = 0
        self._cost = CostModel()
        self._model = load_model(source, self.device)
        self._reads_arrays = source.task in MEDIA_TASKS
        self._attention = str(self._model.config._attn_implementation)  # noqa: SLF001  # no other way to ask
        self._gradients: GradientModel | None = None
        self._generation: dict[str, Any] | None = None
        own_pad = getattr(self._model.config, "pad_token_id", None)
        if own_pad is None:
            # GPT-2's heads find the last real token by it and refuse batches without one.
            self._model.config.pad_token_id = source.pad_id
        self._takes_type_ids = takes_type_ids(self._model)
        self._depends_on_company = _depends_on_company(self._model.config, source.max_length)
        on_cpu = self.device == "cpu"
        if not on_cpu:  # first, so that what is checked is the kernel that will run
            self.precision = apply_precision(self._model, source.precision, self.device)
        # Before rows are packed: models are asked for padded ones here.
        self._states = (
            wanted_states(self._model, self._forward_rows, source) if source.wide else None
        )
        can_pack = source.outputs and not self._depends_on_company and not self._reads_arrays
        self._packed = self._pack(own_pad) if can_pack else None
        if on_cpu:
            self.precision = apply_precision(self._model, source.precision, self.device)

    @property
    def limits(self) -> RowLimits | None:
        """See `engines.base.Engine`. How large a pass should be was measured, and still is."""
        on_cpu = self.device == "cpu"
        lowest, highest = CPU_BUDGET if on_cpu else GPU_BUDGET
        if self._packed is not None and self._packed.masked:
            highest = MASKED_BUDGET[on_cpu]
        budget = self._cost.budget(lowest, highest)
        if self._packed is not None:
            limits = RowLimits(budget, 0.0, packed=True)
        elif self._reads_arrays:
            limits = RowLimits(budget, 0.0)  # nothing is padded: only equal sizes go together
        elif self._source.pad_id is None or self._depends_on_company:
            return None
        else:
            limits = RowLimits(budget, (CPU_LIMITS if on_cpu else GPU_LIMITS).max_padding)
        if not self._source.wide:
            return limits
        return narrowed(
            limits, self._model.config.vocab_size, LARGEST_OUTPUT if on_cpu else LARGEST_GPU_OUTPUT
        )

    def begin(self, threads: int) -> None:  # noqa: ARG002 - torch's own are set
        """Time a few passes with this worker's threads."""
        if not self._source.outputs or self._reads_arrays:
            return
        self._cost = CostModel()
        token = 1 if self._source.pad_id != 1 else 2
        length = min(*PROBE_TOKENS, self._source.max_length)
        row = TokenSequence(
            [token] * length,
            [0] * length,
            wanted=[0] if self._states is not None else None,
        )
        run = self._run if self.limits is not None else lambda rows: self._run(rows[:1])
        for total in PROBE_TOKENS:
            run([row] * max(1, total // length))

    def forward(self, sequences: Sequence[TokenSequence]) -> list[Outputs]:
        """See `engines.base.Engine`."""
        return forward_in_groups(
            sequences,
            self.limits,
            self._run,
            per_token=self._source.per_token,
            chosen=self._states is not None,
        )

    def session(self) -> Session:
        """See `engines.base.Engine`. Uses the model's own `generation_config.json`."""
        if self._generation is None:
            own = self._model.generation_config.to_dict().items()
            self._generation = {name: value for name, value in own if value is not None}
            # Each prompt has a length of its own, and two of them are a warning each time.
            self._model.generation_config.max_length = None
        whole = AtOnce(Whole(self._model, self._source.pad_id), self._generation)
        if not Decoder.fits(self._model):
            return whole
        return Continuous(self._model, whole, alone=self._depends_on_company)

    def gradient_precision(self) -> Precision:
        """See `engines.attribution.GradientEngine`."""
        return self._gradient_model().precision

    def points_per_pass(self, path: EmbeddingPath) -> int:
        """See `engines.attribution.GradientEngine`. A way back costs about what the way there does."""
        if self._source.pad_id is None:  # heads that look for the last token refuse company
            return 1
        limits = self.limits or CPU_LIMITS
        tokens = min(limits.max_tokens, GRADIENT_TOKENS[self.device == "cpu"])
        return max(1, tokens // ((1 + len(path.targets)) * len(path.sequence)))

    def points(self, path: EmbeddingPath, positions: Sequence[float]) -> list[PathPoint]:
        """See `engines.attribution.GradientEngine`."""
        return self._gradient_model().points(path, positions)

    def _gradient_model(self) -> GradientModel:
        """Made when it is first asked for: most models never are."""
        if self._gradients is None:
            if self.precision == "int8":  # whose products have no gradients
                try:
                    model = load_model(self._source, self.device)
                except LoadError as error:  # of files that were removed since
                    raise NoGradientsError(f"int8 weights alone are here: {error}") from error
                model.config.pad_token_id = self._model.config.pad_token_id
            else:
                model = twin(self._model, self._attention)
            self._gradients = GradientModel(model, self.device, type_ids=self._takes_type_ids)
        return self._gradients

    def _pack(self, pad_id: int | None) -> PackedForward | None:
        return packed_forward(
            self._model,
            self._alone,
            self._source,
            self.device,
            type_ids=self._takes_type_ids,
            pad_id=pad_id,
        )

    def _alone(self, row: Sequence[TokenSequence]) -> list[Outputs]:
        return forward_in_groups(row, None, self._forward_rows, per_token=self._source.per_token)

    def _run(self, rows: list[TokenSequence]) -> dict[str, npt.NDArray[np.float32]]:
        """One forward pass, whose time is learned from."""
        if self._reads_arrays:
            return self._run_arrays(rows)
        started = time.perf_counter()
        lengths = [len(row) for row in rows]
        with self._choice(rows):
            if self._packed is not None:
                outputs = self._packed(rows)
            else:
                outputs = self._forward_rows(rows)
                lengths = [max(lengths)] * len(lengths)
                if self._states is not None and only_some(rows):  # all in one row
                    outputs = {name: array[0] for name, array in outputs.items()}
        seconds = time.perf_counter() - started
        squares = sum(length * length for length in lengths)
        if self._packed is not None and self._packed.masked:
            squares = sum(lengths) ** 2  # its attention looks at the whole row
        self._cost.observe(sum(lengths), squares, seconds)
        return outputs

    def _choice(self, rows: list[TokenSequence]) -> AbstractContextManager[None]:
        """Within it, the head reads what is wanted of the rows' tokens."""
        if self._states is None or not only_some(rows):
            return nullcontext()
        return self._states.only(rows, self.device, packed=self._packed is not None)

    @torch.inference_mode()
    def _forward_rows(self, rows: list[TokenSequence]) -> dict[str, npt.NDArray[np.float32]]:
        inputs = self._tensors(rows)
        if self._takes_type_ids and all(row.type_ids for row in rows):
            type_ids = pad_rows([row.type_ids for row in rows], 0)
            inputs["token_type_ids"] = torch.from_numpy(type_ids).to(self.device)
        result = self._model(**inputs)
        return {name: result[name].float().cpu().numpy() for name in self._source.outputs}

    @torch.inference_mode()
    def _run_arrays(self, rows: list[TokenSequence]) -> dict[str, Any]:
        """Each output as a list with one array per row: their sizes may differ."""
        made: dict[str, dict[int, npt.NDArray[np.float32]]] = {
            name: {} for name in self._source.outputs
        }
        shapes: dict[object, list[int]] = {}
        for index, row in enumerate(rows):
            shapes.setdefault(row.shape, []).append(index)
        for members in shapes.values():
            started = time.perf_counter()
            stacked = {
                name: torch.from_numpy(np.stack([rows[index].arrays[name] for index in members]))
                for name in rows[members[0]].arrays
            }
            result = self._model(
                **{
                    name: tensor.to(self.device, self._model.dtype)
                    for name, tensor in stacked.items()
                }
            )
            for name, of_rows in made.items():
                arrays = result[name].float().cpu().numpy()
                of_rows.update(zip(members, arrays, strict=True))
            tokens = sum(len(rows[index]) for index in members)
            self._cost.observe(tokens, 0, time.perf_counter() - started)
        return {
            name: [arrays[index] for index in range(len(rows))] for name, arrays in made.items()
        }

    def _tensors(self, rows: list[TokenSequence]) -> dict[str, torch.Tensor]:
        ids = [row.ids for row in rows]
        self.padding += count_padding(rows)
        return {
            "input_ids": torch.from_numpy(pad_rows(ids, self._source.pad_id or 0)).to(self.device),
            "attention_mask": torch.from_numpy(row_mask(ids)).to(self.device),
        }
