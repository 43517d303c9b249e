"""Prompts that come at random times: joining a running batch, against a batch at a time.

    python -m benchmarks.generation [--quick] [--shape gpt2] [--gaps 2,0.5]

In one process, without a server. Time is the process's CPU time, so that other load on the machine
does not matter; where nothing is left to do it jumps to the next arrival. Both systems get the same
prompts at the same times and generate the same tokens, in rounds A B A B.
"""

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from benchmarks.report import Cell, Report, add_arguments, output_folder
from flambeau.bench.svg import bar_chart
from flambeau.engines.base import TokenSequence
from flambeau.engines.generation import AtOnce, GenerationSettings, NewToken, Session
from flambeau.engines.torch.continuous import Continuous
from flambeau.engines.torch.whole import Whole

SHAPES = ("gpt2", "llama-100m", "tiny")
PROMPT_TOKENS = (8, 64)
NEW_TOKENS = (8, 96)


class Ask(NamedTuple):
    """A prompt, when it comes (seconds), and how many tokens it wants."""

    at: float
    prompt: TokenSequence
    wanted: int


class Outcome(NamedTuple):
    """What one run of all prompts cost, in seconds of CPU."""

    spent: float
    first: list[float]
    """From a prompt's arrival to its first token."""
    last: list[float]
    """From a prompt's arrival to its last token."""


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.generation")
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--gaps", default="2,0.5", help="mean seconds between prompts")
    parser.add_argument("--rounds", type=int, default=2)
    add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.shape, arguments.rounds, arguments.gaps = "tiny", 2, "0.05,0.01"
    torch.set_num_threads(1)
    model = _model(arguments.shape)
    systems = ("a batch at a time", "joining")
    report = Report(
        "generation",
        "Prompts that come at random times",
        f"{arguments.shape}, {sum(each.numel() for each in model.parameters()) / 1e6:.0f}M"
        f" parameters, fp32, 1 thread; {arguments.prompts} prompts of {PROMPT_TOKENS[0]} to"
        f" {PROMPT_TOKENS[1]} tokens, each continued by {NEW_TOKENS[0]} to {NEW_TOKENS[1]}, greedy."
        f" Seconds are CPU seconds; medians over {arguments.rounds} rounds."
        " `python -m benchmarks.generation`.",
    )
    rows: list[list[Cell]] = []
    bars: dict[str, dict[str, float]] = {system: {} for system in systems}
    for gap in map(float, arguments.gaps.split(",")):
        asks = _asks(arguments.prompts, gap, model.config.vocab_size)
        found: dict[str, list[Outcome]] = {system: [] for system in systems}
        for number in range(arguments.rounds + (arguments.shape == "tiny")):
            for system in systems:
                outcome = _run(_session(model, system), asks)
                if number or arguments.shape != "tiny":  # what is set up once weighs there
                    found[system].append(outcome)
        for system, outcomes in found.items():
            row = _medians(outcomes, sum(ask.wanted for ask in asks))
            rows.append([f"{gap:g} s", system, *row])
            bars[system][f"every {gap:g} s"] = row[2]
    columns = ["a prompt every", "system", "ms a token", "first token, s", "last token, s", "p95"]
    report.table("Cost and waiting", columns, rows, _NOTE)
    report.chart(bar_chart("From arrival to the last token", bars, y="CPU seconds, mean"))
    report.write(output_folder(arguments))


_NOTE = (
    "`ms a token`: CPU time of everything over the tokens that were asked for. `first token` and"
    " `last token`: from a prompt's arrival, mean over the prompts; `p95` of the last one. A batch"
    " at a time, a prompt waits for the batch before it, and a batch computes until its longest"
    " sequence is done."
)


def _model(shape: str) -> Any:
    torch.manual_seed(0)
    if shape == "gpt2":
        model: Any = GPT2LMHeadModel(GPT2Config())
    elif shape == "tiny":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=1_000, n_embd=64, n_layer=2, n_head=2))
    else:
        sizes = {"hidden_size": 768, "intermediate_size": 2_048, "num_hidden_layers": 12}
        heads = {"num_attention_heads": 12, "num_key_value_heads": 4}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=32_000, **sizes, **heads))
    model.generation_config.eos_token_id = None  # each sequence gets as long as it wants
    model.generation_config.pad_token_id = 0
    return model.eval()


def _asks(count: int, gap: float, vocabulary: int) -> list[Ask]:
    chance = random.Random(0)
    asks: list[Ask] = []
    at = 0.0
    for _ in range(count):
        length = chance.randint(*PROMPT_TOKENS)
        prompt = TokenSequence([chance.randrange(1, vocabulary) for _ in range(length)])
        asks.append(Ask(at, prompt, chance.randint(*NEW_TOKENS)))
        at += chance.expovariate(1 / gap)
    return asks


def _session(model: Any, system: str) -> Session:
    whole = AtOnce(Whole(model, 0), {})
    return Continuous(model, whole, alone=False) if system == "joining" else whole


def _run(session: Session, asks: Sequence[Ask]) -> Outcome:
    """Bring each prompt at its time, step until all are done."""
    settings = GenerationSettings(NEW_TOKENS[1], do_sample=False, num_beams=1)
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    skipped = -time.process_time()  # what lies before the start, and the idle time

    def now() -> float:
        return time.process_time() + skipped

    def listener(number: int) -> Any:
        heard = 0

        def hear(_index: int, tokens: Sequence[NewToken]) -> bool:
            nonlocal heard
            heard += len(tokens)
            first.setdefault(number, now() - asks[number].at)
            last[number] = now() - asks[number].at
            return heard < asks[number].wanted

        return hear

    waiting = list(enumerate(asks))
    idle = 0.0
    while waiting or len(session):
        if not len(session) and waiting[0][1].at > now():
            gap = waiting[0][1].at - now()
            skipped += gap
            idle += gap
        while waiting and waiting[0][1].at <= now():
            number, ask = waiting.pop(0)
            session.start(ask.prompt, settings, listener(number))
        session.step()
    return Outcome(now() - idle, list(first.values()), list(last.values()))


def _medians(outcomes: Sequence[Outcome], tokens: int) -> list[float]:
    middle = statistics.median
    return [
        1_000 * middle(each.spent for each in outcomes) / tokens,
        middle(statistics.fmean(each.first) for each in outcomes),
        middle(statistics.fmean(each.last) for each in outcomes),
        middle(statistics.quantiles(each.last, n=20)[-1] for each in outcomes),
    ]


if __name__ == "__main__":
    main()
