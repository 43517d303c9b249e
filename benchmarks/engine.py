"""`python -m benchmarks.engine`: the forward pass alone, in one process, without a server.

One text at a time, padded batches of 16 as they arrive, padded batches sorted by length, and
Flambeau's engine (packed; each precision that the device has), interleaved. Beside it, in the same
run, what the matrix products alone could do: the share of that is how much there is still to win.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from benchmarks.models import MIX, SHAPES, model, texts
from benchmarks.report import Report, add_arguments, output_folder
from flambeau.bench.svg import bar_chart
from flambeau.engines.base import ModelSource, TokenSequence
from flambeau.engines.torch import Engine

if TYPE_CHECKING:
    from flambeau.types import Precision


BATCH = 16
GEMM_TOKENS = 512


class System(NamedTuple):
    """One way to run all texts; `run` gives each text's logits, in order."""

    name: str
    run: Callable[[list[TokenSequence]], list[np.ndarray]]


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.engine")
    parser.add_argument("--shape", default="bert-base", choices=[*SHAPES])
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--mix", default=MIX, help="lengths in tokens [default: %(default)s]")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gpu", action="store_true", help="measure the first GPU")
    add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.texts, arguments.rounds = min(arguments.texts, 64), min(arguments.rounds, 2)
    torch.set_num_threads(arguments.threads)
    folder = model(arguments.shape)
    rows = _tokenise(folder, texts(arguments.texts, arguments.mix))
    device = "cuda:0" if arguments.gpu else "cpu"
    systems = _systems(folder, device)
    tokens = sum(map(len, rows))
    clock = time.perf_counter if arguments.gpu else time.process_time
    seconds: dict[str, list[float]] = {system.name: [] for system in systems}
    answers: dict[str, list[np.ndarray]] = {}
    peaks = []
    for number in range(arguments.rounds + 1):
        peak = _gemm_peak(arguments.shape, device, clock)
        for system in systems:
            started = clock()
            answers[system.name] = system.run(rows)
            spent = clock() - started
            if number:  # the first round warms up
                seconds[system.name].append(spent)
        if number:
            peaks.append(peak)
    _report(arguments, device, rows, tokens, seconds, answers, peaks)


def _report(  # noqa: PLR0913, PLR0917
    arguments: argparse.Namespace,
    device: str,
    rows: list[TokenSequence],
    tokens: int,
    seconds: dict[str, list[float]],
    answers: dict[str, list[np.ndarray]],
    peaks: list[float],
) -> None:
    work = _gemm_work(arguments.shape, tokens)
    peak = statistics.median(peaks)
    reference = np.stack(answers["padded, arrival order"])
    base = statistics.median(seconds["padded, arrival order"])
    packed = statistics.median(seconds["packed fp32"])
    table = []
    for name, spent in seconds.items():
        median = statistics.median(spent)
        found = np.stack(answers[name])
        table.append(
            [
                name,
                tokens / median,
                1000 * median / len(rows),
                base / median,
                packed / median,
                100 * work / median / peak,
                float(100 * (found.argmax(1) == reference.argmax(1)).mean()),
                float(np.abs(_softmax(found) - _softmax(reference)).max()),
            ]
        )
    unit = "GPU second" if arguments.gpu else "CPU second"
    name = "engine-gpu" if arguments.gpu else "engine"
    name += "" if arguments.shape == "bert-base" else f"-{arguments.shape}"
    lengths = [len(row) for row in rows]
    report = Report(
        name,
        f"The engine alone: {arguments.shape} shape on {device}",
        f"{len(rows)} texts, lengths {arguments.mix} (mean {statistics.mean(lengths):.1f} tokens), "
        f"{arguments.threads} thread(s), medians of {arguments.rounds} interleaved rounds. The share "
        "is that of the fp32 matrix products (bf16 on a GPU) of the same run, "
        f"{peak / 1e9:.0f} GFLOP/s with {GEMM_TOKENS} tokens, and counts linear layers only.",
    )
    report.table(
        f"Tokens per {unit}",
        [
            "system",
            f"tokens per {unit}",
            "ms a text",
            "times padded",
            "times packed fp32",
            "% of the GEMM peak",
            "% labels equal",
            "largest difference of a probability",
        ],
        table,
    )
    report.chart(
        bar_chart(
            f"Tokens per {unit}, {arguments.shape} shape",
            {str(row[0]): {"": float(row[1])} for row in table},
            y=f"tokens per {unit}",
        )
    )
    report.data |= {"seconds": seconds, "peaks": peaks, "lengths": lengths}
    report.write(output_folder(arguments))


def _systems(folder: Path, device: str) -> list[System]:
    gpu = 0 if device != "cpu" else None
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "int8")
    if gpu is not None:
        precisions = ("fp32", "bf16", "fp16")
    hugging_face = _load(folder, device)
    systems = [
        System("one by one", lambda rows: _padded(hugging_face, [[row] for row in rows], device)),
        System(
            "padded, arrival order",
            lambda rows: _padded(hugging_face, _cut(rows), device),
        ),
        System("padded, sorted", lambda rows: _sorted(hugging_face, rows, device)),
    ]
    for precision in precisions:
        engine = Engine(
            ModelSource(
                folder,
                "text-classification",
                ("logits",),
                pad_id=0,
                gpu=gpu,
                precision=precision,
            )
        )
        engine.begin(0)  # as many threads as torch has
        systems.append(System(f"packed {precision}", _packed(engine)))
    return systems


def _packed(engine: Engine) -> Callable[[list[TokenSequence]], list[np.ndarray]]:
    return lambda rows: [each["logits"] for each in engine.forward(rows)]


def _load(folder: Path, device: str) -> Any:
    from transformers import AutoModelForSequenceClassification

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype)
    return network.to(device).eval()


def _cut(rows: list[TokenSequence]) -> list[list[TokenSequence]]:
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


@torch.inference_mode()
def _padded(
    network: Any, batches: Sequence[Sequence[TokenSequence]], device: str
) -> list[np.ndarray]:
    answers: list[np.ndarray] = []
    for batch in batches:
        longest = max(map(len, batch))
        ids = torch.tensor([row.ids + [0] * (longest - len(row)) for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        result = network(input_ids=ids.to(device), attention_mask=mask.to(device))
        answers.extend(result.logits.float().cpu().numpy())
    return answers


def _sorted(network: Any, rows: list[TokenSequence], device: str) -> list[np.ndarray]:
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    answers = _padded(network, _cut([rows[index] for index in order]), device)
    places = {index: place for place, index in enumerate(order)}
    return [answers[places[index]] for index in range(len(rows))]


def _tokenise(folder: Path, samples: list[str]) -> list[TokenSequence]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [TokenSequence(each.ids, each.type_ids) for each in tokenizer.encode_batch(samples)]


def _products(shape: str) -> list[tuple[int, int]]:
    """The linear layers of one encoder layer, as inputs and outputs."""
    sizes = SHAPES[shape]
    square = (sizes.width, sizes.width)
    return [square] * 4 + [(sizes.width, sizes.inner), (sizes.inner, sizes.width)]


def _gemm_work(shape: str, tokens: int) -> float:
    """Floating-point operations of all linear layers over so many tokens."""
    one = sum(inputs * outputs for inputs, outputs in _products(shape))
    return 2.0 * tokens * SHAPES[shape].layers * one


def _gemm_peak(shape: str, device: str, clock: Callable[[], float]) -> float:
    """Operations a second of the same products without anything between them."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    layers = [
        (
            torch.randn(GEMM_TOKENS, inputs, device=device, dtype=dtype),
            torch.randn(outputs, inputs, device=device, dtype=dtype),
        )
        for inputs, outputs in _products(shape)
    ]
    repeats = 4 if device == "cpu" else 200
    with torch.inference_mode():
        for states, weights in layers:
            torch.nn.functional.linear(states, weights)
        _wait(device)
        started = clock()
        for _ in range(repeats):
            for states, weights in layers:
                torch.nn.functional.linear(states, weights)
        _wait(device)
    return _gemm_work(shape, GEMM_TOKENS) / SHAPES[shape].layers * repeats / (clock() - started)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    result: np.ndarray = powers / powers.sum(1, keepdims=True)
    return result


if __name__ == "__main__":
    main()
