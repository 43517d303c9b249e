"""Makes TorchScript files of Transformers models, as TorchServe's Transformers example did.

A traced model takes `(input_ids, attention_mask)`, integers of shape (rows, tokens) and padded on
the right, and gives a tuple: the logits, or start and end logits for question answering. Where the
model tells a question from its context by token types, the traced one derives them from the ids.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from typing_extensions import override

from flambeau import tasks
from flambeau.engines.base import per_token
from flambeau.errors import LoadError
from flambeau.tasks.base import ForwardTask
from flambeau.types import TaskName

TOLERANCE = 1e-5
"""How far a traced score may be from the model's own: absolute, plus relative to its size."""

_TEXT = "A traced model must give the same answers as the model that it was made from. "


class _Traceable(torch.nn.Module):
    """A model with the inputs and outputs of the module's docstring."""

    def __init__(self, model: Any, task: TaskName, separator: int | None) -> None:
        super().__init__()
        self.model = model
        kind = tasks.load(task)
        self._outputs = kind.outputs if issubclass(kind, ForwardTask) else ("logits",)
        self._separator = separator
        # A cache between calls cannot be traced.
        self._options = {"use_cache": False} if task == "text-generation" else {}

    @override
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        types = {}
        if self._separator is not None:
            types["token_type_ids"] = second_text(input_ids, self._separator) * attention_mask
        output = self.model(
            input_ids=input_ids, attention_mask=attention_mask, **types, **self._options
        )
        return tuple(output[name] for name in self._outputs)


def second_text(input_ids: torch.Tensor, separator: int) -> torch.Tensor:
    """1 for each token behind a row's first separator, else 0: shape (rows, tokens)."""
    ends = (input_ids == separator).long()
    return (ends.cumsum(1) - ends).clamp(max=1)


def _separator(model: Any, tokenizer: Tokenizer) -> int | None:
    """The token behind which the second text's types begin, if the model has types at all.

    None where the tokenizer's own types for a pair do not follow that rule.
    """
    if getattr(model.config, "type_vocab_size", 0) != 2:  # first and second text
        return None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    pair = tokenizer.encode("a", "a")
    if 1 not in pair.type_ids:
        return None
    separator = pair.ids[pair.type_ids.index(1) - 1]
    derived = second_text(torch.tensor([pair.ids]), separator)[0].tolist()
    return separator if derived == pair.type_ids else None


class Tracer:
    """Traces one model, on the CPU, with rows of real tokens up to `max_length`."""

    def __init__(self, model: Any, task: TaskName, tokenizer: Tokenizer, max_length: int) -> None:
        separator = _separator(model, tokenizer)
        self._module = _Traceable(model, task, separator).eval()
        self._task = task
        self._tokenizer = tokenizer
        self._max_length = max_length
        pad = model.config.pad_token_id
        self._pad_id = pad if isinstance(pad, int) else 0

    def save(self, file: Path) -> None:
        """Trace, write `file`, load it again and compare it with the model.

        Raises `LoadError` where the model cannot be traced, or where the traced one gives other
        scores for texts of other lengths or for several texts at once.
        """
        trace: Any = torch.jit.trace  # not annotated in torch
        store: Any = torch.jit.save
        load: Any = torch.jit.load
        with torch.no_grad(), warnings.catch_warnings():
            # Tracing warns of every shape that Python reads; the comparison below is the proof.
            warnings.simplefilter("ignore")
            try:
                example = self._rows(2, self._max_length)
                store(trace(self._module, example, strict=False, check_trace=False), str(file))
            except Exception as error:
                raise self._cannot_be_traced(error) from error
            self._compare(load(str(file)))

    def _compare(self, traced: Any) -> None:
        for count, length in self._shapes():
            rows = self._rows(count, length)
            try:
                found = traced(*rows)
            except RuntimeError as error:
                raise self._cannot_be_traced(error, f" of {count} texts of {length} tokens") from (
                    error
                )
            pairs = zip(found, self._module(*rows), strict=True)
            real = rows[1].bool() if per_token(self._task) else slice(None)
            for scores, expected in ((one[real], other[real]) for one, other in pairs):
                if not torch.allclose(scores, expected, rtol=TOLERANCE, atol=TOLERANCE):
                    gap = (scores - expected).abs().max().item()
                    raise LoadError(
                        f"The traced model is not equal to the model: its scores differ by {gap:.2g}"
                        f" for {count} texts of {length} tokens. Use save_mode pretrained."
                    )

    def _shapes(self) -> Iterator[tuple[int, int]]:
        """(rows, tokens) unlike those traced, and the longest."""
        shortest = self._tokenizer.num_special_tokens_to_add(is_pair=False) + 1
        for count, length in ((1, shortest), (3, self._max_length // 3), (1, self._max_length)):
            yield count, max(shortest, length)

    def _rows(self, count: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask of `count` rows of up to `length` tokens; all but the first are shorter."""
        ids = torch.full((count, length), self._pad_id)
        mask = torch.zeros((count, length), dtype=torch.long)
        for row in range(count):
            tokens = self._tokens(max(1, length * (count - row) // count))
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        return ids, mask

    def _tokens(self, length: int) -> list[int]:
        special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max(length, special + 1))
        # Each repetition of the text makes at least one token.
        return self._tokenizer.encode(_TEXT * length).ids[:length]

    def _cannot_be_traced(self, error: Exception, rows: str = "") -> LoadError:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # TorchScript puts where it happened first and what happened last.
        reason = (
            lines[-1] if lines and isinstance(error, RuntimeError) else (lines or ["no text"])[0]
        )
        return LoadError(
            f"The model cannot be traced{rows and ' for batches'}{rows}:"
            f" {type(error).__name__}: {reason[:200].rstrip('.')}. Use save_mode pretrained."
        )
