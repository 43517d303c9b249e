"""`python -m benchmarks.tasks`: what tasks cost beside the model's compute.

CPU time of everything that the handler does with a request but the forward pass: parsing and
tokenising before it; the answer and its JSON behind it. The engine is replaced by one that gives
numbers drawn beforehand, at once. Beside it, in the same run, BERT-base's forward pass over as many
tokens. The goal is at most 10 % of that.

Another task is another line in `CASES`.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from benchmarks.models import model, texts
from benchmarks.report import Cell, Report, add_arguments, output_folder
from flambeau.engines.base import CPU_LIMITS, ModelSource, RowLimits, TokenSequence
from flambeau.engines.torch import Engine
from flambeau.handlers.native import TransformersHandler
from flambeau.handlers.native_jobs import Job, Request
from flambeau.handlers.native_model import Device, ModelParts, NativeModel, load_parts
from flambeau.handlers.results import encode_item
from flambeau.handlers.ts.context import Context, RequestProcessor
from flambeau.types import JsonValue

if TYPE_CHECKING:
    from flambeau.engines.base import Generated, GenerationSettings, Outputs
    from flambeau.types import Precision, TaskName

BATCH = 32
TOKENS = 32
"""Of each row, special ones included."""
ROUNDS = 30
WARM_UP = 3
GOAL = 10.0
"""Percent of the forward pass."""
PRECISIONS: "tuple[Precision, ...]" = ("fp32", "bf16", "int8")
ENTITIES = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]
SENTIMENT = ["negative", "neutral", "positive"]
INFERENCE = ["contradiction", "neutral", "entailment"]
WIDTH = [str(place) for place in range(768)]
"""Of a state, for tasks that are given states and no labels."""


class Case(NamedTuple):
    """Requests of one kind. `body` makes one of a text of `words` words.

    `labels` are the model's outputs for a text, or for each token where `per_token`; `outputs` are
    their names. All rows must have `TOKENS` tokens; `rows` is how many a request makes.
    """

    name: str
    task: "TaskName"
    body: Callable[[str], JsonValue]
    labels: Sequence[str] = ()
    words: int = TOKENS - 2
    per_token: bool = True
    rows: int = 1


def _pipeline(**parameters: JsonValue) -> Callable[[str], JsonValue]:
    return lambda text: {"inputs": text, "parameters": parameters}


def _question(text: str) -> JsonValue:
    words = text.split()
    return {"question": " ".join(words[:7]), "context": " ".join(words[7:])}


def _ranking(text: str) -> JsonValue:
    """A query of 7 words and 8 texts of the others, each in another order."""
    words = text.split()
    query, others = words[:7], words[7:]
    return {
        "query": " ".join(query),
        "texts": [" ".join(others[place:] + others[:place]) for place in range(8)],
    }


CASES = [
    Case("text-classification", "text-classification", str, SENTIMENT, per_token=False),
    Case(
        "text-classification, pipelines' form",
        "text-classification",
        _pipeline(top_k=None),
        SENTIMENT,
        per_token=False,
    ),
    Case("token-classification", "token-classification", str, ENTITIES),
    Case(
        "token-classification, pipelines' form: none", "token-classification", _pipeline(), ENTITIES
    ),
    *(
        Case(
            f"token-classification, pipelines' form: {strategy}",
            "token-classification",
            _pipeline(aggregation_strategy=strategy),
            ENTITIES,
        )
        for strategy in ("simple", "first", "average", "max")
    ),
    Case(
        "zero-shot-classification, 4 labels",
        "zero-shot-classification",
        _pipeline(candidate_labels=["home", "music", "health", "travel"]),
        INFERENCE,
        TOKENS - 8,  # "this example is home ." and three special tokens
        per_token=False,
        rows=4,
    ),
    Case("question-answering", "question-answering", _question, words=TOKENS - 3),
    Case("embeddings", "embeddings", _pipeline(normalize=True), WIDTH),
    Case(
        "embeddings, base64 of int8",
        "embeddings",
        _pipeline(normalize=True, embedding_dtype="int8", encoding_format="base64"),
        WIDTH,
    ),
    Case("feature-extraction", "feature-extraction", _pipeline(), WIDTH),
    Case(
        "text-ranking, 8 texts",
        "text-ranking",
        _ranking,
        ["relevance"],
        TOKENS - 3,
        per_token=False,
        rows=8,
    ),
]


class DrawnOutputs:
    """An engine that computes nothing: its outputs were drawn before."""

    forks = True
    device = "none"
    padding = 0
    precision: "Precision" = "fp32"
    limits: RowLimits | None = RowLimits(
        max_tokens=BATCH * TOKENS, max_padding=CPU_LIMITS.max_padding, packed=True
    )

    def __init__(self, case: Case, outputs: Sequence[str]) -> None:
        draw = np.random.default_rng(0)
        shape = (TOKENS,) if case.per_token else ()
        shape += (len(case.labels),) if case.labels else ()
        self._drawn = [
            {name: draw.normal(scale=3, size=shape).astype(np.float32) for name in outputs}
            for _ in range(BATCH * case.rows)
        ]

    def begin(self, threads: int) -> None:
        """See `Engine`."""

    def forward(self, sequences: Sequence[TokenSequence]) -> "list[Outputs]":
        """See `Engine`. Raises `ValueError` for a row of another length than all must have."""
        if any(len(sequence) != TOKENS for sequence in sequences):
            raise ValueError(f"a row has not {TOKENS} tokens: {[*map(len, sequences)]}")
        return self._drawn[: len(sequences)]

    def generate(
        self, prompts: Sequence[TokenSequence], settings: "Sequence[GenerationSettings]"
    ) -> "list[Generated]":
        """No task here generates."""
        raise NotImplementedError


class WithoutEngine(TransformersHandler):
    """The handler around such an engine."""

    def __init__(self, parts: ModelParts, engine: DrawnOutputs) -> None:
        super().__init__("full")
        self._model = NativeModel(
            settings=parts.settings,
            task=parts.task,
            reader=parts.reader,
            engine=engine,
            engine_name=engine.device,
            positions=None,
            new_tokens=1,
        )


class Cost(NamedTuple):
    """CPU microseconds of one row, before and behind the forward pass."""

    before: float
    behind: float


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.tasks")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    add_arguments(parser)
    arguments = parser.parse_args()
    rounds = min(arguments.rounds, 5) if arguments.quick else arguments.rounds
    torch.set_num_threads(1)
    forward = {precision: _forward(precision, max(3, rounds // 5)) for precision in PRECISIONS}
    table: list[Sequence[Cell]] = []
    for case in CASES:
        cost = _measure(case, rounds)
        both = cost.before + cost.behind
        shares = [100 * both / forward[precision] for precision in PRECISIONS]
        table.append([case.name, cost.before, cost.behind, both, *shares])
    report = Report(
        "tasks",
        "What tasks cost beside the forward pass",
        f"CPU microseconds per row of {TOKENS} tokens, in batches of {BATCH} requests, one thread,"
        f" medians of {rounds} rounds. Before: parsing, tokenising, planning. Behind: choosing what"
        " runs together, the answer, its JSON. Beside them the share of BERT-base's forward pass"
        " over as many tokens, measured in the same run: "
        + ", ".join(f"{name} {spent:,.0f} µs" for name, spent in forward.items())
        + f" per row. The goal is at most {GOAL:.0f} % of fp32's. `python -m benchmarks.tasks`.",
    )
    columns = ["requests", "before", "behind", "together"]
    report.table(
        "CPU microseconds per row, and percent of the forward pass",
        [*columns, *(f"% of {precision}" for precision in PRECISIONS)],
        table,
    )
    report.data["forward"] = forward
    report.write(output_folder(arguments))


def _forward(precision: "Precision", rounds: int) -> float:
    """CPU microseconds that BERT-base takes for one row."""
    folder = model("bert-base")
    source = ModelSource(folder, "text-classification", ("logits",), pad_id=0, precision=precision)
    engine = Engine(source)
    engine.begin(1)
    draw = np.random.default_rng(0)
    rows = [
        TokenSequence(draw.integers(1000, 20_000, TOKENS).tolist(), [0] * TOKENS)
        for _ in range(BATCH)
    ]
    return _median(lambda: engine.forward(rows), rounds)


def _median(run: Callable[[], object], rounds: int) -> float:
    spent = []
    for number in range(WARM_UP + rounds):
        started = time.process_time()
        run()
        if number >= WARM_UP:
            spent.append(time.process_time() - started)
    return 1e6 * statistics.median(spent) / BATCH


def _measure(case: Case, rounds: int) -> Cost:
    with tempfile.TemporaryDirectory() as temporary:
        folder = _write_model(case, Path(temporary))
        parts = load_parts(folder, {}, {"handler": {"task": case.task}}, device=Device())
    outputs = getattr(parts.task, "outputs", ())
    handler = WithoutEngine(parts, DrawnOutputs(case, outputs))
    context = Context("m", temporary, {}, BATCH, None, "0")
    bodies = [_encoded(case.body(text)) for text in texts(BATCH, f"fixed:{case.words + 2}")]
    data: list[object] = [{"body": body} for body in bodies]
    before: list[float] = []
    behind: list[float] = []
    for _ in range(WARM_UP + rounds):
        context.request_processor = [RequestProcessor({}) for _ in data]
        started = time.process_time()
        requests = handler.read(data, context)
        read = time.process_time()
        bodies_out = _answer(handler, requests, context)
        behind.append(time.process_time() - read)
        before.append(read - started)
        if any(not isinstance(body, bytes) for body in bodies_out):
            raise ValueError(f"{case.name}: a request has no answer: {bodies_out}")
    rows = BATCH * case.rows
    return Cost(*(1e6 * statistics.median(spent[WARM_UP:]) / rows for spent in (before, behind)))


def _answer(handler: WithoutEngine, requests: Sequence[object], context: Context) -> list[object]:
    """Each request's bytes; what went wrong in their place."""
    asked = [request for request in requests if isinstance(request, Request)]
    waiting: list[Job] = [job for request in asked for job in request.waiting()]
    while chosen := handler.choose(waiting):
        handler.run(chosen)
        waiting = [job for request in asked for job in request.waiting()]
    answers = []
    for request in requests:
        result = handler.result(request, context) if isinstance(request, Request) else request
        body = encode_item(result)
        answers.append(getattr(body, "data", body))
    return answers


def _encoded(body: JsonValue) -> bytes:
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def _write_model(case: Case, folder: Path) -> Path:
    """All of a model but its weights."""
    source = model("bert-base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    config = json.loads((source / "config.json").read_text())
    names = {"id2label": dict(enumerate(case.labels))} if case.labels else {}
    names |= {"label2id": {label: index for index, label in enumerate(case.labels)}}
    (folder / "config.json").write_text(json.dumps(config | names))
    return folder


if __name__ == "__main__":
    main()
