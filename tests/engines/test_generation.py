"""Sequences that are continued side by side: who joins, who leaves, and what each of them gets."""

import inspect
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from flambeau import engines
from flambeau.engines.base import ModelSource, TokenSequence
from flambeau.engines.generation import (
    AtOnce,
    Generated,
    GenerationSettings,
    NewToken,
    Outcome,
    Prompt,
    Session,
    generate_all,
    no_listener,
    until_end,
)
from flambeau.testing.generating_models import Generator, tiny_generator

GREEDY = GenerationSettings(12, do_sample=False)
LENGTHS = (5, 40, 2, 17, 9, 30)


class Models:
    """Engines of tiny models, each loaded once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._engines: dict[str, Any] = {}

    def get(self, architecture: Generator) -> Any:
        """A torch engine; its model is `_model`."""
        if architecture not in self._engines:
            encodes = architecture in ("t5", "bart")
            folder = tiny_generator(self._root / architecture, architecture)
            source = ModelSource(
                folder,
                "summarization" if encodes else "text-generation",
                pad_id=1 if encodes else 0,
                max_length=127,
            )
            self._engines[architecture] = engines.load("torch")(source)
        return self._engines[architecture]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("generators"))


def prompts(lengths: Sequence[int] = LENGTHS) -> list[TokenSequence]:
    """Token ids that are no special ones, the same in each run."""
    return [
        TokenSequence([5 + (7 * length + 13 * place) % 290 for place in range(length)])
        for length in lengths
    ]


def plain(engine: Any, prompt: TokenSequence, **options: Any) -> list[int]:
    """What Transformers' own `generate` continues a lone prompt with, without the end token."""
    model = engine._model
    ids = torch.tensor([prompt.ids])
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **{"max_new_tokens": 12} | options
    )
    before = 1 if model.config.is_encoder_decoder else len(prompt)
    eos = model.generation_config.eos_token_id
    return until_end(made[0, before:].tolist(), [eos]).ids


def run(session: Session, steps: int = 1_000) -> dict[int, Outcome]:
    """Step until nothing is left, or so many times."""
    outcomes: dict[int, Outcome] = {}
    while len(session) and steps:
        outcomes.update(session.step())
        steps -= 1
    return outcomes


def ids_of(outcome: Outcome) -> list[int]:
    assert not isinstance(outcome, Exception), outcome
    return outcome[0].ids


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2", "mistral", "t5", "bart"])
def test_greedy_tokens_are_those_of_transformers(models: Models, architecture: Generator) -> None:
    """Prompts of any lengths in one batch get what `generate` gives each of them alone."""
    engine = models.get(architecture)
    made = generate_all(engine.session(), prompts(), [GREEDY] * len(LENGTHS))
    assert [each[0].ids for each in made] == [
        plain(engine, prompt, do_sample=False) for prompt in prompts()
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.8},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 10},
        {"num_beams": 3, "length_penalty": 0.5},
        {"num_beams": 2, "num_return_sequences": 2},
    ],
)
def test_settings_mean_what_they_mean_in_transformers(
    models: Models, options: dict[str, Any]
) -> None:
    """Also those that look at what was said before, in a batch where others do without."""
    engine = models.get("gpt2")
    settings = GenerationSettings(12, do_sample=False, **options)
    mixed = [GREEDY, settings, GREEDY, settings]
    made = generate_all(engine.session(), prompts(LENGTHS[:4]), mixed)
    for prompt, setting, each in zip(prompts(LENGTHS[:4]), mixed, made, strict=True):
        asked = options if setting is settings else {}
        assert each[0].ids == plain(engine, prompt, do_sample=False, **asked)
        assert len(each) == asked.get("num_return_sequences", 1)


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7, "top_k": 20}, {"top_p": 0.8}, {"min_p": 0.05}]
)
def test_a_seed_draws_what_it_draws_in_transformers(
    models: Models, options: dict[str, Any]
) -> None:
    """A seeded prompt among others gets the tokens of `set_seed` and `generate`."""
    engine = models.get("llama")
    seeded = GenerationSettings(12, do_sample=True, seed=4, **options)
    others = [GREEDY, GenerationSettings(9, do_sample=True), seeded]
    made = generate_all(engine.session(), prompts((9, 30, 17)), others)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        expected = plain(engine, prompts((17,))[0], do_sample=True, **options)
    assert made[2][0].ids == expected


def test_who_joins_and_who_leaves_changes_nothing_for_the_others(models: Models) -> None:
    """Greedy and seeded texts are the same with neighbours that come, end and are cancelled."""
    engine = models.get("gpt2")
    settings = [GREEDY, GenerationSettings(25, do_sample=True, seed=3)] * 3
    alone = [
        generate_all(engine.session(), [prompt], [each])[0][0].ids
        for prompt, each in zip(prompts(), settings, strict=True)
    ]
    session = engine.session()
    handles: list[int] = []
    outcomes: dict[int, Outcome] = {}
    for prompt, each in zip(prompts(), settings, strict=True):
        handles.append(session.start(prompt, each, no_listener))
        passing = session.start(TokenSequence([7] * 50), GenerationSettings(90), no_listener)
        for _ in range(3):
            outcomes.update(session.step())
        session.cancel(passing)
    outcomes.update(run(session))
    assert [ids_of(outcomes[handle]) for handle in handles] == alone


def test_a_prompt_joins_a_running_batch_with_the_next_step(models: Models) -> None:
    """Its first token comes in the step after its start, while the other one goes on."""
    session = models.get("gpt2").session()
    told: list[str] = []

    def listener(name: str) -> Callable[[int, Sequence[NewToken]], bool]:
        def hear(_index: int, tokens: Sequence[NewToken]) -> bool:
            told.extend([name] * len(tokens))
            return True

        return hear

    first, second = prompts((40, 5))
    session.start(first, GenerationSettings(20, min_new_tokens=20, do_sample=False), listener("a"))
    session.step()
    session.step()
    assert told == ["a", "a"]
    session.start(second, GREEDY, listener("b"))
    session.step()
    assert told == ["a", "a", "a", "b"]


def test_a_long_prompt_is_read_in_parts_while_others_go_on(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step reads more of it than allowed, and its text is that of a prompt read at once."""
    monkeypatch.setattr("flambeau.engines.torch.continuous.READ_TOKENS", 16)
    engine = models.get("llama")
    session = engine.session()
    short, long = prompts((5, 60))
    running = session.start(short, GenerationSettings(10, min_new_tokens=10), no_listener)
    session.step()
    late = session.start(long, GREEDY, no_listener)
    assert session.step() == session.step() == []
    outcomes = run(session)
    assert len(ids_of(outcomes[running])) == 10
    assert ids_of(outcomes[late]) == plain(engine, long, do_sample=False)


def test_a_cancelled_prompt_leaves_at_once_and_frees_its_cache(models: Models) -> None:
    """The keys and values that are left are those of its neighbour, without padding."""
    session = models.get("gpt2").session()
    handle = session.start(prompts((100,))[0], GenerationSettings(20), no_listener)
    kept = session.start(prompts((5,))[0], GREEDY, no_listener)
    session.step()
    freed = weakref.ref(session._running[0].cache.layers[0].keys)
    session.cancel(handle)
    assert len(session) == 1
    assert freed() is None
    assert [cohort.width for cohort in session._running] == [5]
    assert list(run(session)) == [kept]


def test_a_listener_that_wants_no_more_ends_its_sequence(models: Models) -> None:
    """With the tokens that it has heard; also of a model with an encoder, and of beams."""
    for architecture, beams in (("gpt2", 1), ("t5", 1), ("t5", 3)):
        engine = models.get(architecture)  # type: ignore[arg-type]
        heard: list[int] = []

        def hear(_index: int, tokens: Sequence[NewToken], heard: list[int] = heard) -> bool:
            heard.extend(token.id for token in tokens or [NewToken(-1)])
            return len(heard) < 3

        session = engine.session()
        settings = GenerationSettings(50, min_new_tokens=50, do_sample=False, num_beams=beams)
        handle = session.start(prompts((9,))[0], settings, hear)
        outcome = run(session)[handle]
        assert not isinstance(outcome, Exception)
        assert outcome[0].finish_reason == "cancelled"
        assert len(heard) == 3
        if beams == 1:
            assert outcome[0].ids == heard


def test_only_the_guilty_prompt_fails(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that raises is tried again in halves, while reading and while generating."""
    engine = models.get("gpt2")
    expected = [plain(engine, each, do_sample=False) for each in prompts((5, 9, 17))]
    forward = engine._model.forward
    poison = 297

    def failing(input_ids: torch.Tensor, **inputs: Any) -> Any:
        made = forward(input_ids, **inputs)  # what it has written by then must not stay
        if (input_ids == poison).any():
            raise torch.OutOfMemoryError("no memory for this one")
        return made

    failing.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(engine._model, "forward", failing)
    session = engine.session()
    innocent = [session.start(each, GREEDY, no_listener) for each in prompts((5, 9))]
    reading = session.start(TokenSequence([8, poison, 9]), GREEDY, no_listener)
    outcomes = dict(session.step())
    assert isinstance(outcomes[reading], torch.OutOfMemoryError)
    late = session.start(prompts((17,))[0], GREEDY, no_listener)
    session.step()
    row = next(r for c in session._running for r in c.rows if r.prompt.handle == late)
    row.tokens[-1] = NewToken(poison)
    outcomes |= run(session)
    assert isinstance(outcomes[late], torch.OutOfMemoryError)
    assert [ids_of(outcomes[handle]) for handle in innocent] == expected[:2]


def test_scores_that_are_no_numbers_fail_their_prompt_alone(models: Models) -> None:
    """Nothing can be drawn from them; greedy neighbours go on."""
    engine = models.get("qwen2")
    impossible = GenerationSettings(5, do_sample=True, temperature=1e-45)
    session = engine.session()
    fine = session.start(prompts((5,))[0], GREEDY, no_listener)
    broken = session.start(prompts((5,))[0], impossible, no_listener)
    outcomes = run(session)
    assert isinstance(outcomes[broken], ValueError)
    assert ids_of(outcomes[fine]) == plain(engine, prompts((5,))[0], do_sample=False)


def test_memory_bounds_what_runs_and_everything_ends(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is room for one sequence only, they run one after the other."""
    engine = models.get("llama")
    session = engine.session()
    generate_all(session, prompts((5,)), [GREEDY])  # so that it knows what a token takes
    monkeypatch.setattr(session, "_budget", 1)
    handles = [session.start(each, GREEDY, no_listener) for each in prompts((5, 9, 17))]
    session.step()
    assert [len(cohort.rows) for cohort in session._running] == [1]
    outcomes = run(session)
    assert [ids_of(outcomes[handle]) for handle in handles] == [
        plain(engine, each, do_sample=False) for each in prompts((5, 9, 17))
    ]


def test_log_probabilities_are_those_of_the_scores(models: Models) -> None:
    """A greedy token's is the largest of the model's own."""
    engine = models.get("gpt2")
    told: list[NewToken] = []

    def hear(_index: int, tokens: Sequence[NewToken]) -> bool:
        told.extend(tokens)
        return True

    session = engine.session()
    prompt = prompts((9,))[0]
    session.start(prompt, GenerationSettings(1, do_sample=False, logprobs=True), hear)
    run(session)
    with torch.inference_mode():
        scores = engine._model(torch.tensor([prompt.ids])).logits[0, -1].log_softmax(-1)
    assert told[0].logprob == pytest.approx(float(scores.max()), abs=1e-5)
    assert told[0].id == int(scores.argmax())


def test_seeded_prompts_run_alone_where_batches_run_at_once() -> None:
    """Equal settings share a run; a seeded prompt has one of its own; order is kept."""
    runs: list[list[int]] = []

    def record(group: Sequence[Prompt]) -> list[list[Generated]]:
        runs.append([prompt.sequence.ids[0] for prompt in group])
        return [[Generated(prompt.sequence.ids, "length")] for prompt in group]

    plainly, seeded = GenerationSettings(5), GenerationSettings(5, seed=1)
    rows = [TokenSequence([number]) for number in range(5)]
    settings = [plainly, seeded, plainly, seeded, GenerationSettings(6)]
    made = generate_all(AtOnce(record, {}), rows, settings)
    assert [each[0].ids for each in made] == [[0], [1], [2], [3], [4]]
    assert sorted(runs) == [[0, 2], [1], [3], [4]]


def test_generation_stops_at_the_first_end_token() -> None:
    """Tokens from the end token on are dropped, and the reason says so."""
    assert until_end([5, 6, 0, 7], (0,)) == Generated([5, 6], "stop", NewToken(0))
    assert until_end([5, 6], (0,)) == Generated([5, 6], "length")
