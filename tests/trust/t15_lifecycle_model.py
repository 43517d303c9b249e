"""T15: the life of models over the management API, against a specification of it.

First one caller, with steps that Hypothesis chooses; then four at once, whose histories must each be
explainable by some order.
"""

import random
import sys
import threading
import time
from contextlib import nullcontext
from typing import Any

import httpx
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from typing_extensions import override

from flambeau.serving.management import Management
from flambeau.serving.registry import Registry
from flambeau.serving.served_model import ServedModel
from flambeau.testing.echo import write_model
from tests.trust.lifecycle import (
    Answer,
    Call,
    Kind,
    Model,
    Operation,
    State,
    Version,
    apply,
    ask,
    explained,
)
from tests.trust.servers import TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_THREADS = 4
_VERSIONS = ("1.0", "2.0", "3.0")
_NAMES = ("a", "b")
_STUB = Model("1.0", (("1.0", Version(1, 1, 1)),))
_TELLS = """
def handle(data, context):
    version = context.manifest["model"]["modelVersion"]
    return [{"version": version} for _ in data or []]
"""
_KINDS: tuple[Kind, ...] = (
    "register", "register", "scale", "set-default", "unregister", "describe", "predict", "list",
)  # fmt: skip


def run(run: Run) -> Figures:
    """One server for all; each history begins and ends with none of the models."""
    store = run.folder / "server" / "store"
    for name in _NAMES:
        for version in _VERSIONS:
            write_model(store, name, _TELLS, version)
    with trust_server(run) as server:
        steps, wrong = _alone(run, server)
        calls, unexplained = _together(run, server)
        unexpected = server.log.read_text(errors="replace").count("failed unexpectedly")
        alive = server.alive()
    return {
        "steps": steps,
        "concurrent_calls": calls,
        "violations": wrong + unexplained,
        "unexpected": unexpected,
        "alive": int(alive),
    }


def _clear(server: TrustServer, client: httpx.Client) -> None:
    """Unregister what a history has left: other versions first, the default last."""
    for name in _NAMES:
        for version in (*_VERSIONS, *_VERSIONS):
            client.delete(f"{server.management}/models/{name}/{version}")


def _alone(run: Run, server: TrustServer) -> tuple[int, int]:
    """Steps of one caller, and how many runs of them met an answer that was not to be expected."""
    steps = 0
    client = httpx.Client(timeout=60)

    class Life(RuleBasedStateMachine):
        """The management API and its specification, side by side."""

        def __init__(self) -> None:
            super().__init__()
            self.state: State = (("stub", _STUB),)

        @override
        def teardown(self) -> None:
            _clear(server, client)

        @rule(
            kind=st.sampled_from(_KINDS),
            name=st.sampled_from(_NAMES),
            version=st.sampled_from(("", *_VERSIONS)),
            low=st.integers(0, 2),
            high=st.integers(0, 2),
        )
        def call(self, kind: Kind, name: str, version: str, low: int, high: int) -> None:
            nonlocal steps
            operation = _usable(Operation(kind, name, version, low, high))
            expected, self.state = apply(self.state, operation)
            answered = ask(client, server.inference, server.management, operation)
            steps += 1
            assert answered == expected, f"{operation}: {answered}, not {expected}"

    chosen = settings(
        max_examples=run.amount(12, 200),
        stateful_step_count=run.amount(25, 50),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    try:
        run_state_machine_as_test(seed(run.seed)(Life), settings=chosen)
    except AssertionError as error:
        print(error, file=sys.stderr)
        return steps, 1
    finally:
        client.close()
    return steps, 0


def _usable(operation: Operation) -> Operation:
    """Registrations and changes of the default name a version."""
    if operation.kind in ("register", "set-default") and not operation.version:
        return operation._replace(version="1.0")
    return operation


def _together(run: Run, server: TrustServer) -> tuple[int, int]:
    """Calls of four callers at once, and histories that no order explains."""
    choose = run.random()
    clients = [httpx.Client(timeout=60) for _ in range(_THREADS)]
    calls = unexplained = 0
    for _ in range(run.amount(60, 600)):
        history = _history(server, clients, choose)
        calls += len(history)
        if not explained(history):
            unexplained += 1
            for call in sorted(history, key=lambda call: call.begin):
                print(call, file=sys.stderr)
            print(file=sys.stderr)
        _clear(server, clients[0])
    for client in clients:
        client.close()
    return calls, unexplained


def _history(server: TrustServer, clients: list[httpx.Client], choose: random.Random) -> list[Call]:
    """Four threads make three calls each on one name; then one looks at what has become of it."""
    kinds = [kind for kind in _KINDS if kind != "list"]
    plans = [
        [
            _usable(
                Operation(
                    choose.choice(kinds),
                    "a",
                    choose.choice(("", "1.0", "1.0", "2.0")),
                    choose.randint(0, 1),
                    choose.randint(0, 2),
                )
            )
            for _ in range(3)
        ]
        for _ in range(_THREADS)
    ]
    for plan in plans[:2]:  # so that there is something to quarrel about
        plan[0] = Operation("register", "a", "1.0", choose.randint(0, 1))
    history: list[Call] = []
    barrier = threading.Barrier(_THREADS)

    def work(client: httpx.Client, plan: list[Operation]) -> None:
        barrier.wait(30)
        for operation in plan:
            history.append(_call(server, client, operation))  # noqa: PERF401  # others append, too

    threads = [
        threading.Thread(target=work, args=pair) for pair in zip(clients, plans, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last: tuple[Kind, ...] = ("describe", "predict")
    looks = [Operation(kind, "a", version) for kind in last for version in ("", "1.0", "2.0")]
    return history + [_call(server, clients[0], look) for look in looks]


def _call(server: TrustServer, client: httpx.Client, operation: Operation) -> Call:
    begin = time.monotonic()
    try:
        answer: Answer = ask(client, server.inference, server.management, operation)
    except (httpx.HTTPError, ValueError, KeyError) as error:
        answer = (0, repr(error))
    return Call(operation, begin, time.monotonic(), answer)


def _no_serialisation() -> None:
    """Look, wait a moment, and then act: without the lock, on what was seen before."""
    made = Management.__init__

    def unlocked(self: Management, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        self._changing = nullcontext()  # type: ignore[assignment]  # no lock

    def overwrite(self: Registry, model: ServedModel) -> None:
        self._versions.setdefault(model.key.name, {})[model.key.version] = model
        self._default.setdefault(model.key.name, model.key.version)

    Management.__init__ = unlocked  # type: ignore[method-assign]
    Registry.add = overwrite  # type: ignore[method-assign]


SUITE = Suite(
    name="t15",
    title="lifecycle model",
    promises=("G15",),
    limits=(
        Limit("steps", low=250),
        Limit("concurrent_calls", low=1000),
        Limit("violations", exactly=0),
        Limit("unexpected", exactly=0),
        Limit("alive", exactly=1),
    ),
    controls={"no-serialisation": _no_serialisation},
    run=run,
)
