"""Whether the server is live, started and ready: the three questions of Kubernetes' probes.

Live: the event loop turns; no model matters. Started: the models of the configuration are registered,
and each has had all its workers. Ready: each model's default version has its workers, they have
shown lately that they answer (`supervisor.canary`), and no stop has begun. A model that is
registered later counts once it has had its workers: loading one takes no other out of service.
"""

import asyncio
from collections.abc import Iterable
from typing import Literal
from weakref import WeakSet

from flambeau.serving.registry import Registry
from flambeau.serving.served_model import ServedModel

Probe = Literal["livez", "startupz", "readyz"]

_CANARY_SECONDS = 0.8
"""How long a probe waits for workers that have to show that they answer: Kubernetes waits for 1 s."""


class Readiness:
    """What the server lacks for each probe's yes; `draining` once a stop has begun."""

    def __init__(self, registry: Registry) -> None:
        self.draining = False
        self._registry = registry
        self._registered = self._started = False
        self._counted: WeakSet[ServedModel] = WeakSet()

    def registered(self) -> None:
        """The models of the configuration are registered; each of them counts from now on."""
        self._registered = True
        self._counted.update(self._registry)

    async def lacks(self, probe: Probe) -> list[str]:
        """What is missing, one line of text each; empty: the answer is yes."""
        if probe == "livez":
            return []
        if not self._registered:
            return ["the models of the configuration are not registered yet"]
        if probe == "startupz":
            return self._lacks_to_start()
        models = [model for model in self._defaults() if self._counts(model)]
        lacking = _lacking(models)
        if self.draining:
            lacking.insert(0, "the server is stopping")
        return lacking or await self._silent(models)

    def _lacks_to_start(self) -> list[str]:
        if self._started:
            return []
        lacking = _lacking(model for model in self._registry if model in self._counted)
        self._started = not lacking
        return lacking

    def _defaults(self) -> list[ServedModel]:
        return [model for model in self._registry if self._registry.is_default(model)]

    def _counts(self, model: ServedModel) -> bool:
        if model not in self._counted and not _missing_workers(model):
            self._counted.add(model)
        return model in self._counted

    async def _silent(self, models: list[ServedModel]) -> list[str]:
        """Models whose workers have not shown lately that they answer; asks those that have to."""
        end = asyncio.get_running_loop().time() + _CANARY_SECONDS
        lacking = {model: model.pool.lacking_canary(model.minimum) for model in models}
        while any(lacking.values()) and (left := end - asyncio.get_running_loop().time()) > 0:
            news = [asyncio.ensure_future(m.pool.next_change()) for m in models if lacking[m]]
            await asyncio.wait(news, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for each in news:
                each.cancel()
            lacking = {model: model.pool.lacking_canary(model.minimum) for model in models}
        return [f"{model.key}: {text}" for model, text in lacking.items() if text]


def _lacking(models: Iterable[ServedModel]) -> list[str]:
    return [f"{model.key}: {text}" for model in models if (text := _missing_workers(model))]


def _missing_workers(model: ServedModel) -> str:
    ready = model.pool.ready_count()
    if ready >= model.minimum:
        return ""
    return f"{ready} of {model.minimum} workers are ready"
