"""Streams the texts of a whole batch out of Transformers' `generate` (contract.md section 9.7)."""

from typing import Any

import torch
from transformers import TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer
from typing_extensions import override

__all__ = ["TextIteratorStreamerBatch"]


class TextIteratorStreamerBatch(BaseStreamer):  # type: ignore[misc]  # transformers is not checked
    """One text streamer per row; iterating gives `[{"text": …}, …]` for each step of the batch.

    A row that has ended gives empty texts until the last row has ended too. `timeout` is in
    seconds per step.
    """

    def __init__(
        self,
        tokenizer: Any,
        batch_size: int,
        skip_prompt: bool = False,
        timeout: float | None = None,
        **decode_kwargs: Any,
    ) -> None:
        self.batch_size = batch_size
        self.streamers = [
            TextIteratorStreamer(tokenizer, skip_prompt, timeout, **decode_kwargs)
            for _ in range(batch_size)
        ]
        self.streamer_iterators = [iter(row) for row in self.streamers]
        self._ended = [False] * batch_size

    @override
    def put(self, value: torch.Tensor) -> None:
        """Take the next tokens, [rows] or [rows, tokens]; ValueError for another number of rows."""
        if len(value) != self.batch_size:
            raise ValueError(
                f"{self.batch_size} rows are streamed, and the tensor has {len(value)}: "
                "num_beams and num_return_sequences must be 1."
            )
        for row, streamer in zip(value, self.streamers, strict=True):
            streamer.put(row.reshape(1, -1) if row.ndim else row.reshape(1))

    @override
    def end(self) -> None:
        """End all rows."""
        for streamer in self.streamers:
            streamer.end()

    def __iter__(self) -> "TextIteratorStreamerBatch":
        return self

    def __next__(self) -> list[dict[str, str]]:
        texts = []
        for index, row in enumerate(self.streamer_iterators):
            text = None if self._ended[index] else next(row, None)
            self._ended[index] = text is None
            texts.append({"text": text or ""})
        if all(self._ended):
            raise StopIteration
        return texts
