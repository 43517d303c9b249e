"""T4: no address leads a server to hosts that its owner did not name, and no download does harm."""

import asyncio
import contextvars
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import msgspec

from flambeau.archive import fetch as fetching
from flambeau.archive.addresses import is_address
from flambeau.archive.fetch import FetchRules, fetch
from flambeau.archive.store import ModelStore
from flambeau.errors import FlambeauError
from tests.trust.hostile_web import INNER, PUBLIC, REFUSES, HostileServer, HostileWeb
from tests.trust.mars import write_mar
from tests.trust.servers import TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_SECONDS = 1.5
_AT_ONCE = 32
_LARGEST = 600_000
_BROAD = ("https?://.*", "file:///nowhere/.*")
_PRIVATE = (
    "127.0.0.1", "127.1", "127.255.255.254", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1",
    "017700000001", "127.0.0.1.", "0", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1",
    "100.64.0.1", "169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376",
    "198.18.0.1", "192.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "[::1]", "[::]",
    "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:a9fe:a9fe]",
    "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]", "[fe80::1]", "[fe80::1%25lo]", "[fc00::1]", "[fd00:ec2::254]",
    "[ff02::1]", "localhost", "LOCALHOST", "localhost.", "inside.example", "metadata.example",
    "mapped.example", "minio", "%31%32%37.0.0.1", "\u2460\u2461\u2466.0.0.1", "\u24db\u24de\u24d2alhost",
    "127\u30020\u30020\u30021",
)  # fmt: skip
"""This machine, its network and its cloud's credentials, as they can be written."""
_CONFUSED = (
    "http://models.example@127.0.0.1/{}", "http://models.example:80@127.0.0.1/{}",
    "http://127.0.0.1#@models.example/{}", "http://127.0.0.1?@models.example/{}",
    "http://127.0.0.1\\@models.example/{}", "http://models.example\\@127.0.0.1/{}",
    "http://127.0.0.1;models.example/{}", "http://[::1]models.example/{}",
    "http:///127.0.0.1/{}", "http:/127.0.0.1/{}", "http:127.0.0.1/{}", "//127.0.0.1/{}",
    "http://127.0.0.1:99999/{}", "http://127.0.0.1:{}", "http://127.0.0.1%00.models.example/{}",
    "http://127.0.0.1%2f@models.example/{}", "http://127.0.0.1\t.models.example/{}",
    "gopher://127.0.0.1/{}", "ftp://127.0.0.1/{}", "dict://127.0.0.1/{}", "jar:http://127.0.0.1!/{}",
    "file:///etc/passwd?{}", "file://127.0.0.1/etc/{}", "FILE:///etc/{}",
)  # fmt: skip
"""Addresses that two parsers read differently."""
_BAD = ("drip", "endless", "short", "open", "lie", "bomb", "headers", "informed", "silence",
        "garbage", "missing")  # fmt: skip

_case: contextvars.ContextVar[str] = contextvars.ContextVar("case", default="")


class Case(msgspec.Struct, frozen=True):
    """One address to fetch. `may` are the numeric addresses that may be asked for it."""

    name: str
    url: str
    allowed: tuple[str, ...] = _BROAD
    may: frozenset[str] = frozenset({PUBLIC})
    good: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """What came of a case: whether it gave an archive, and in how many seconds."""

    case: Case
    admitted: bool
    crash: str
    seconds: float


def run(run: Run) -> Figures:
    """Fetch from a hostile web in this process; then ask a real server for what it must not touch."""
    cases = list(_cases(run.random(), run.amount(1, 20)))
    archive = write_mar(run.folder / "good.mar", "good", source="").read_bytes()
    store = ModelStore(run.folder / "web", run.folder / "web-cache")
    store.root.mkdir()
    server = HostileServer(archive)
    web = HostileWeb(server, _case.get)
    with asyncio.Runner(loop_factory=lambda: web) as runner:
        outcomes = runner.run(_fetch_all(store, cases))
    server.close()
    strayed = [
        each for each in outcomes if not each.case.may.issuperset(web.asked.get(each.case.name, []))
    ]
    wrong = [each for each in outcomes if each.admitted is not each.case.good]
    crashed = [each for each in outcomes if each.crash]
    for each in [*wrong, *crashed, *strayed]:
        asked = web.asked.get(each.case.name, [])
        print(f"t4: {each.case.url!r} {asked} admitted={each.admitted} {each.crash}")
    kept = {each.case.name for each in outcomes if each.admitted}
    left = [each.name for each in store.root.iterdir() if not each.name.startswith(".")]
    hidden = [each for each in store.root.iterdir() if each.name.endswith((".download", ".sig"))]
    figures: Figures = {
        "cases": len(cases),
        "egress_violations": len(strayed),
        "wrongly_admitted": sum(each.admitted for each in wrong),
        "good_refused": sum(each.case.good for each in wrong),
        "crashed": len(crashed),
        "left": len(left) - len(kept) + len(hidden),
        "max_s": max(each.seconds for each in outcomes),
    }
    return figures | _ask_server(run, archive)


def _cases(random_: random.Random, rounds: int) -> Iterator[Case]:
    for turn in range(rounds):
        for index, host in enumerate(_PRIVATE):
            file = f"direct-{turn}-{index}.mar"
            port = random_.choice(["", ":80", ":8081"])
            scheme = random_.choice(["http", "http", "https"])
            yield Case(file, f"{scheme}://{host}{port}/{file}", may=frozenset())
            file = f"redirect-{turn}-{index}.mar"
            target = f"http://{host}{port}/latest/{file}"
            yield Case(file, f"http://models.example/{file}?{quote(target)}")
        for index, form in enumerate(_CONFUSED):
            file = f"confused-{turn}-{index}.mar"
            yield Case(file, form.format(file))
            target = quote(form.format(file))
            file = f"redirect-c{turn}-{index}.mar"
            stays = form.startswith(
                ("http:///", "http:/1")
            )  # to a browser, a path of the same host
            yield Case(file, f"http://models.example/{file}?{target}", good=stays)
        for index, bad in enumerate(_BAD):
            file = f"{bad}-{turn}-{index}.mar"
            yield Case(file, f"http://models.example/{file}")
        yield from _named(turn)


def _named(turn: int) -> Iterator[Case]:
    """Names that change their meaning, and what an owner's pattern does and does not open."""
    plain = (r"http://models\.example/.*",)
    for index, (host, allowed, may, good) in enumerate((
        ("models.example", _BROAD, {PUBLIC}, True),
        ("models.example", plain, {PUBLIC}, True),
        ("rebind.example", _BROAD, {PUBLIC}, True),  # judged once, and asked there
        ("rebind6.example", _BROAD, {PUBLIC}, True),
        ("rebind.example", ("http://rebind.example/.*",), {PUBLIC}, True),
        ("both.example", _BROAD, {REFUSES}, False),
        ("both.example", ("http://both.example/.*",), {REFUSES}, False),
        ("inside.example", ("http://inside.example/.*",), (), False),
        ("metadata.example", ("http://metadata.example/.*",), (), False),
        ("mapped.example", ("http://mapped.example/.*",), (), False),
        ("minio", ("http://minio/.*",), {INNER}, True),
        ("127.0.0.1", ("http://127[.]0[.]0[.]1/.*", "http://127.0.0.1/.*"), {"127.0.0.1"}, True),
        ("models.example.evil.example", plain, (), False),
        ("models.example:8080", plain, (), False),
        ("evil.example", plain, (), False),
        ("models.example", (), (), False),
    )):  # fmt: skip
        file = f"named-{turn}-{index}.mar"
        yield Case(file, f"http://{host}/{file}", allowed, frozenset(may), good)
    file = f"redirect-o{turn}.mar"
    inner = f"http://minio/redirect-o{turn}.mar"
    yield Case(file, f"http://models.example/{file}?{quote(inner)}", plain)


async def _fetch_all(store: ModelStore, cases: list[Case]) -> list[Outcome]:
    slots = asyncio.Semaphore(_AT_ONCE)
    return await asyncio.gather(*(_fetch_one(store, each, slots) for each in cases))


async def _fetch_one(store: ModelStore, case: Case, slots: asyncio.Semaphore) -> Outcome:
    _case.set(case.name)
    rules = FetchRules(case.allowed, _LARGEST, _SECONDS)
    admitted, crash = False, ""

    def check(path: Path, name: str) -> None:
        store.release(store.open(path, name))

    async with slots:
        started = time.monotonic()
        try:
            if is_address(case.url):
                work = fetch(case.url, store.root, rules, check, lambda _: True)
                admitted = (await asyncio.wait_for(work, 10 * _SECONDS)).is_file()
            else:  # what the server takes for a name of its store
                admitted = store.find(case.url).exists()
        except FlambeauError:
            pass
        except Exception as error:  # noqa: BLE001  # each is a finding
            crash = f"{type(error).__name__}: {error}"
        return Outcome(case, admitted, crash, time.monotonic() - started)


class _Neighbour:
    """A port of this machine that nobody may connect to; counts who does."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.calls = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.calls += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


def _ask_server(run: Run, archive: bytes) -> Figures:
    """Addresses, folders and files that a server with defaults, and one with a broad pattern, gets."""
    outside = run.folder / "outside"
    (outside / "model" / "MAR-INF").mkdir(parents=True)
    (outside / "model" / "MAR-INF" / "MANIFEST.json").write_text('{"model": {"modelName": "x"}}')
    (outside / "good.mar").write_bytes(archive)
    neighbour = _Neighbour()
    asked = opened = 0
    try:
        for name, allowed in (("closed", ""), ("broad", "https?://.*")):
            told = {"allowed_urls": allowed} if allowed else {}
            with trust_server(run, name=name, properties=told) as server:
                for url in _forbidden(neighbour.port, outside):
                    asked += 1
                    query = {"url": url, "initial_workers": "0"}
                    answer = httpx.post(f"{server.management}/models", params=query, timeout=30)
                    opened += answer.status_code < 400
                asked += _infer(server, neighbour.port)
                opened += not server.alive()
    finally:
        neighbour.close()
    return {"server_cases": asked, "server_calls": neighbour.calls, "server_opened": opened}


def _forbidden(port: int, outside: Path) -> tuple[str, ...]:
    return (
        f"http://127.0.0.1:{port}/m.mar", f"http://localhost:{port}/m.mar",
        f"http://0x7f.1:{port}/m.mar", f"http://[::ffff:127.0.0.1]:{port}/m.mar",
        f"http://2130706433:{port}/m.mar", f"http://a@127.0.0.1:{port}/m.mar",
        f"file://{outside}/good.mar", f"file:{outside}/good.mar", f"{outside}/model",
        f"{outside}/good.mar", "../outside/model", "file:///etc/passwd", "/etc", "/", "/proc/self",
    )  # fmt: skip


def _infer(server: TrustServer, port: int) -> int:
    """A request's parts are data: an address in one of them is asked by nobody."""
    url = f"http://127.0.0.1:{port}/x.png"
    there = f"{server.inference}/predictions/stub"
    httpx.post(there, json={"url": url, "inputs": url}, headers={"x-request-id": url}, timeout=30)
    httpx.post(there, files={"data": ("x", url)}, data={"url": url}, timeout=30)
    httpx.post(there, content=url, headers={"referer": url, "origin": url}, timeout=30)
    return 3


def _follow_redirects() -> None:
    """Let the client follow redirects by itself, as a default elsewhere would."""
    plain = httpx.AsyncClient

    class Following(plain):  # type: ignore[misc, valid-type]  # a flaw
        def __init__(self, **settings: object) -> None:
            super().__init__(**settings, follow_redirects=True)

    httpx.AsyncClient = Following  # type: ignore[misc]  # a flaw


def _resolve_twice() -> None:
    """Judge a name's address, then connect by name."""

    async def carelessly(
        client: httpx.AsyncClient, url: httpx.URL, allowed: tuple[str, ...]
    ) -> httpx.Response:
        await fetching._resolve(url, allowed)
        return await client.send(client.build_request("GET", url), stream=True)

    fetching._send = carelessly  # type: ignore[assignment]  # a flaw


def _any_address() -> None:
    """Ask whatever a name leads to."""
    fetching.may_reach = lambda address, host, *, named: True  # type: ignore[attr-defined]  # a flaw


SUITE = Suite(
    name="t4",
    title="fetch_policy",
    promises=("G27",),
    limits=(
        Limit("cases", low=170),
        Limit("egress_violations", exactly=0),
        Limit("wrongly_admitted", exactly=0),
        Limit("good_refused", exactly=0),
        Limit("crashed", exactly=0),
        Limit("left", exactly=0),
        Limit("max_s", high=4 * _SECONDS),
        Limit("server_calls", exactly=0),
        Limit("server_opened", exactly=0),
    ),
    controls={
        "follow-redirects": _follow_redirects,
        "resolve-twice": _resolve_twice,
        "any-address": _any_address,
    },
    run=run,
)
