"""The model, the faults and the ledger of T8: who asked what, and what was answered."""

import asyncio
import os
import random
import signal
import time

import httpx
import msgspec

from tests.trust.servers import TrustServer

# Echoes the request's id. `x-do` is a fault; `x-once` names a file, so that only the first attempt
# has it and the second one has to be answered.
HANDLER = """
import ctypes, os, signal, time

kept = []

def sockets():
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink("/proc/self/fd/" + name).startswith("socket:"):
                yield int(name)
        except OSError:
            pass

def fail(do):
    if do == "segv":
        ctypes.string_at(0)
    elif do == "exit":
        os._exit(0)
    elif do == "close":
        for number in list(sockets()):
            os.close(number)
    elif do == "garbage":
        for number in list(sockets()):
            os.write(number, b"\\xff" * 64)
    elif do == "half":
        for number in list(sockets()):
            os.write(number, b"\\x00\\x01\\x00\\x00half a frame")
        os._exit(0)
    elif do == "storm":
        for size in (2 ** 20, 2 ** 14):
            try:
                while True:
                    kept.append(bytearray(size))
            except MemoryError:
                pass
        raise MemoryError
    elif do == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(30)
    elif do == "sleep":
        time.sleep(30)

def handle(data, context):
    if data is None:
        return None
    answers = []
    for index, row in enumerate(data):
        headers = context.get_all_request_header(index)
        do, once = headers.get("x-do", ""), headers.get("x-once", "")
        if do and not os.path.exists(once):
            open(once, "w").close()
            fail(do)
        time.sleep(0.005)
        answers.append(context.model_name + " " + bytes(row["body"]).decode())
    return answers
"""
DEADLY = ("segv", "exit", "close", "garbage", "half")
"""A worker's end under a request: it is tried again on another worker, which answers it."""
SILENT = ("stop", "sleep")
"""No sign of a worker: its request is a 504, and nobody else's."""
STARVING = ("storm",)
"""No memory left: its request is a 507, and the worker, which has leaked it, is replaced."""
OUTSIDE = (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM)
"""Signals that are sent to any worker at any moment, whatever it does."""

_PATIENCE_SECONDS = 12.0


class Asked(msgspec.Struct):
    """One request: whose, what fault it carries, when it was sent, and what came back and when."""

    model: str
    fault: str
    sent: float
    status: int = 0
    right: bool = False
    seconds: float = 0.0

    @property
    def as_expected(self) -> bool:
        """Whether its status is one that its fault may have.

        A worker without memory says so, or cannot even do that: then it is tried again; on a busy
        machine the kernel takes longer to give it all that memory than its time-out is.
        """
        if self.fault in SILENT:
            return self.status == 504
        return self.status == 200 or (self.fault in STARVING and self.status in (504, 507))


class Ledger:
    """Sends requests and keeps what was answered to each."""

    def __init__(self, server: TrustServer, http: httpx.AsyncClient) -> None:
        self.asked: list[Asked] = []
        self._server = server
        self._http = http

    async def ask(self, model: str, fault: str = "") -> Asked:
        """Send one request, and wait for its answer."""
        asked = Asked(model, fault, time.monotonic())
        self.asked.append(asked)
        body = f"request {len(self.asked)}"
        once = self._server.folder / f"once-{len(self.asked)}"
        headers = {"x-do": fault, "x-once": str(once)} if fault else {}
        try:
            answer = await self._http.post(
                f"{self._server.inference}/predictions/{model}",
                content=body,
                headers=headers,
                timeout=_PATIENCE_SECONDS,
            )
        except httpx.HTTPError:
            return asked
        asked.status = answer.status_code
        asked.right = asked.status != 200 or answer.text == f"{model} {body}"
        asked.seconds = time.monotonic() - asked.sent
        return asked

    def neighbours(self, model: str | None = None) -> list[Asked]:
        """Requests that carried no fault."""
        return [each for each in self.asked if not each.fault and model in (None, each.model)]


async def load(ledger: Ledger, models: list[str], rate: float, until: asyncio.Event) -> None:
    """Send `rate` requests a second to the models in turn, whatever comes back, until told to stop."""
    begun, number = time.monotonic(), 0
    async with asyncio.TaskGroup() as group:
        while not until.is_set():
            group.create_task(ledger.ask(models[number % len(models)]))
            number += 1
            await asyncio.sleep(max(begun + number / rate - time.monotonic(), 0))


class Chaos:
    """Breaks one model's workers, one fault after the other, and measures how soon all are back."""

    def __init__(
        self, server: TrustServer, http: httpx.AsyncClient, ledger: Ledger, model: str, seed: str
    ) -> None:
        self.recoveries: list[float] = []
        self.kinds: list[str] = []
        self._server = server
        self._http = http
        self._ledger = ledger
        self._model = model
        self._random = random.Random(seed)

    async def run(self, faults: int) -> None:
        """Do so many faults, each once the model has recovered from the one before."""
        kinds: list[str | signal.Signals] = []
        while len(kinds) < faults:
            more: list[str | signal.Signals] = [
                *OUTSIDE,
                *OUTSIDE,
                *OUTSIDE,
                *DEADLY,
                *DEADLY,
                *STARVING,
                *SILENT,
            ]
            self._random.shuffle(more)
            kinds += more
        for kind in kinds[:faults]:
            await asyncio.sleep(self._random.uniform(0, 0.1))
            await self._break(kind)

    async def _break(self, kind: str | signal.Signals) -> None:
        pids = await self.workers()
        if isinstance(kind, signal.Signals):
            self.kinds.append(kind.name)
            begun = time.monotonic()
            os.kill(self._random.choice(pids), kind)
        else:
            self.kinds.append(kind)
            begun = time.monotonic()
            asked = await self._ledger.ask(self._model, kind)
            if kind in SILENT:  # its time-out is not the recovery
                begun = asked.sent + asked.seconds
        while len(set(now := await self.workers()) - set(pids)) < 1 or len(now) < len(pids):
            await asyncio.sleep(0.01)
            if time.monotonic() - begun > _PATIENCE_SECONDS:
                break
        self.recoveries.append(time.monotonic() - begun)

    async def workers(self) -> list[int]:
        """Process ids of the model's workers that are ready."""
        answer = await self._http.get(f"{self._server.management}/models/{self._model}", timeout=30)
        workers = answer.json()[0]["workers"]
        return [each["pid"] for each in workers if each["status"] == "READY"]


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of them do not exceed; 0 where there are none."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0
