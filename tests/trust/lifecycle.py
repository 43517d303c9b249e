"""What the management API means, as a function of one state; and whether a history has an order.

`apply` is the specification: what an operation answers in a state, and the state after it.
`explained` looks for an order of overlapping operations in which each answers as it did.
"""

from typing import Literal, NamedTuple

import httpx

Kind = Literal["register", "scale", "set-default", "unregister", "describe", "predict", "list"]
Answer = tuple[object, ...]


class Version(NamedTuple):
    """A version that is served: fewest and most workers, and how many there are."""

    low: int
    high: int
    active: int


class Model(NamedTuple):
    """A name that is served: its default version, and all of them."""

    default: str
    versions: tuple[tuple[str, Version], ...]

    def with_version(self, name: str, version: Version) -> "Model":
        """The same with one version added or changed."""
        return Model(self.default, tuple(sorted({**dict(self.versions), name: version}.items())))


State = tuple[tuple[str, Model], ...]
"""Models by name, sorted: it can be compared and hashed."""


class Operation(NamedTuple):
    """One call. `version` "" is the default; `low` and `high` are workers."""

    kind: Kind
    name: str = ""
    version: str = ""
    low: int = 0
    high: int = 0


class Call(NamedTuple):
    """An operation that was made, from when to when (by one clock), and what was answered."""

    operation: Operation
    begin: float
    end: float
    answer: Answer


GONE: Answer = (409, "gone")
"""A model that was unregistered while the operation on it waited for its workers."""

_NO_MODEL: Answer = (404, "ModelNotFoundException")
_NO_VERSION: Answer = (404, "ModelVersionNotFoundException")


def apply(state: State, operation: Operation) -> tuple[Answer, State]:
    """What the operation answers in this state, and the state after it."""
    models = dict(state)
    if operation.kind == "list":
        return (200, *sorted(models)), state
    model = models.get(operation.name)
    if operation.kind == "register":
        return _register(state, model, operation)
    if model is None:
        return _NO_MODEL, state
    wanted = operation.version or model.default
    if wanted not in dict(model.versions):
        return _NO_VERSION, state
    return _to_version(state, model, wanted, operation)


def _to_version(
    state: State, model: Model, wanted: str, operation: Operation
) -> tuple[Answer, State]:
    name, version = operation.name, dict(model.versions)[wanted]
    match operation.kind:
        case "describe":
            return (200, wanted, *version), state
        case "predict":
            return ((200, wanted) if version.active else (503,)), state
        case "set-default":
            return (200,), _put(state, name, Model(wanted, model.versions))
        case "scale" if operation.high < operation.low:
            return (400,), state
        case "scale":
            active = min(max(version.active, operation.low), operation.high)
            scaled = Version(operation.low, operation.high, active)
            return (200, active), _put(state, name, model.with_version(wanted, scaled))
        case _:
            return _unregister(state, model, name, wanted)


def _register(state: State, model: Model | None, operation: Operation) -> tuple[Answer, State]:
    if model is not None and operation.version in dict(model.versions):
        return (409, "ConflictStatusException"), state
    made = Version(operation.low, operation.low, operation.low)
    base = model or Model(operation.version, ())
    return (200,), _put(state, operation.name, base.with_version(operation.version, made))


def _unregister(state: State, model: Model, name: str, version: str) -> tuple[Answer, State]:
    left = tuple(pair for pair in model.versions if pair[0] != version)
    if version == model.default and left:
        return (403,), state
    return (200,), _put(state, name, Model(model.default, left) if left else None)


def _put(state: State, name: str, model: Model | None) -> State:
    models = {key: value for key, value in state if key != name}
    return tuple(sorted((models | ({name: model} if model else {})).items()))


def ask(client: httpx.Client, inference: str, management: str, operation: Operation) -> Answer:
    """Make the call on a real server and reduce what it answers to what the specification tells."""
    kind, name, version, low, high = operation
    rest = name + (f"/{version}" if version else "")
    path = f"{management}/models/{rest}"
    match kind:
        case "register":
            url = name if version == "1.0" else f"{name}-{version}"
            query = {"url": url, "initial_workers": str(low)}
            done = client.post(f"{management}/models", params=query)
        case "scale":
            query = {"min_worker": str(low), "max_worker": str(high), "synchronous": "true"}
            done = client.put(path, params=query)
        case "set-default":
            done = client.put(f"{path}/set-default")
        case "unregister":
            done = client.delete(path)
        case "describe":
            done = client.get(path)
        case "list":
            done = client.get(f"{management}/models")
        case _:
            done = client.post(f"{inference}/predictions/{rest}")
    return _reduced(kind, done)


def _reduced(kind: Kind, done: httpx.Response) -> Answer:
    document, status = done.json(), done.status_code
    if status == 409 and "taken out of service" in document["message"]:
        return GONE
    if status in (404, 409):
        return (status, document["type"])
    if status != 200:
        return (status,) if status in (400, 403, 503) else (status, done.text)
    match kind:
        case "scale":
            return (200, int(document["status"].split()[3]))
        case "describe":
            (model,) = document
            numbers = (model["minWorkers"], model["maxWorkers"], len(model["workers"]))
            return (200, model["modelVersion"], *numbers)
        case "list":
            return (200, *sorted(each["modelName"] for each in document["models"]))
        case "predict":
            return (200, document["version"])
        case _:
            return (200,)


def explained(calls: list[Call]) -> bool:
    """Whether the calls, from an empty server, could have happened one after the other in some order.

    A call that ended before another began comes before it. Searches all orders, but none twice.
    """
    seen: set[tuple[int, State]] = set()
    everything = (1 << len(calls)) - 1
    waiting: list[tuple[int, State]] = [(0, ())]
    while waiting:
        done, state = waiting.pop()
        if done == everything:
            return True
        left = [index for index in range(len(calls)) if not done >> index & 1]
        first_end = min(calls[index].end for index in left)
        for index in left:
            call = calls[index]
            if call.begin > first_end:
                continue
            answer, after = apply(state, call.operation)
            gone = call.answer == GONE and answer[0] == 200
            step = (done | 1 << index, after)
            if (answer == call.answer or gone) and step not in seen:
                seen.add(step)
                waiting.append(step)
    return False
