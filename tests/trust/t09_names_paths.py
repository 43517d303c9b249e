"""T9: names that want to be paths, commands or flags open nothing outside the server's folders.

The server reports through an audit hook which files it opens and which programs it starts.
"""

import itertools
import json
import random
from pathlib import Path
from urllib.parse import quote

import httpx

from flambeau.archive.store import ModelStore
from flambeau.testing.echo import write_model
from tests.trust.opened import OPENED, read_opened
from tests.trust.raw import Raw, ask_all
from tests.trust.servers import STUB, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_MARK = "t9mark"
"""In every name: what is opened with it in its path came from a client."""

_BEGINS = (
    "../", "../../", "/", "/etc/", "..\\", "C:\\", "\\\\host\\", "~/", "./", "a/../../", "..;/", "%2e%2e/",
    "file:///", "file:", "//", "-", "--", "@", "$(touch ", "`touch ", ";touch ", "|", "&&", "\n", "\r\n",
    "\x00", "\x1b", "\u202e", "\uff0e\uff0e/", "\u2215", "\ud83d\ude00", "%n%s", "{0}", "${IFS}", "'", '"', "*",
)  # fmt: skip
_ENDS = (
    "",
    "/",
    "/..",
    ".mar",
    ".mar\x00.txt",
    "%00",
    ")",
    "`",
    "/MAR-INF/MANIFEST.json",
    " ",
    ".",
    ":x",
)


def hostile_names(count: int, chance: random.Random) -> list[str]:
    """Names with a mark; all pairs of a begin and an end, then longer ones by chance."""
    found = [f"{begin}{_MARK}{end}" for begin, end in itertools.product(_BEGINS, _ENDS)]
    while len(found) < count:
        begins = "".join(chance.choices(_BEGINS, k=chance.randint(2, 6)))
        long = "a" * chance.choice([0, 0, 100, 300])
        found.append(f"{begins}{long}{_MARK}{chance.choice(_ENDS)}")
    chance.shuffle(found)
    return [
        each.encode("utf-8", "surrogatepass").decode("utf-8", "replace") for each in found[:count]
    ]


def run(run: Run) -> Figures:
    """Send the names in each place; then read what the server opened."""
    chance = run.random()
    report = run.folder / "opened"
    (run.folder / _MARK).write_text("outside")
    (run.folder / f"{_MARK}.mar").write_text("outside")
    hostile = hostile_names(run.amount(2000, 20000), chance)
    folder = run.folder / "server" / "store"
    write_model(folder, "stub", STUB)
    with trust_server(run, environment={OPENED: f"{report}:{_MARK}"}) as server:
        coded = [quote(each, safe="") for each in hostile]
        ask_all(server.inference, [Raw("POST", f"/predictions/{each}") for each in coded])
        places = ("model_name", "handler", "runtime")
        queries = [f"url={each}" for each in coded]
        queries += [
            f"url=stub&{place}={each}"
            for each, place in zip(coded, itertools.cycle(places), strict=False)
        ]
        ask_all(server.management, [Raw("POST", f"/models?{each}") for each in queries])
        ask_all(server.management, [Raw("GET", f"/models/{each}") for each in coded])
        bodies = hostile[: run.amount(400, 2000)]
        manifests = hostile[: run.amount(100, 2000)]
        with httpx.Client(timeout=60) as client:
            for each, place in zip(bodies, itertools.cycle((*places, "url")), strict=False):
                client.post(f"{server.management}/models", json={"url": "stub", place: each})
            for number, each in enumerate(manifests):
                _write_manifest(folder / f"m{number}", each, number)
                client.post(f"{server.management}/models", params={"url": f"m{number}"})
        alive = server.alive()
    opened, started = read_opened(report)
    inside = str(run.folder / "server") + "/"
    outside = [path for path in opened if not path.startswith(inside)]
    return {
        "url": 2 * len(coded),
        "query": len(queries),
        "json": len(bodies),
        "manifest": len(manifests),
        "opened_outside": len(outside),
        "started": started,
        "alive": int(alive),
    }


def _write_manifest(folder: Path, name: str, number: int) -> None:
    """A model folder whose manifest has the name somewhere."""
    (folder / "MAR-INF").mkdir(parents=True)
    (folder / "handler.py").write_text(STUB)
    model: dict[str, str] = {
        "modelName": f"m{number}",
        "modelVersion": "1",
        "handler": "handler.py",
    }
    keys = (
        "handler",
        "configFile",
        "requirementsFile",
        "serializedFile",
        "modelFile",
        "modelName",
        "modelVersion",
    )
    model[keys[number % len(keys)]] = name
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": model}))


def _any_name() -> None:
    """Join what a client names to the store's folder."""

    def carelessly(self: ModelStore, url: str, *, allow_absolute_dirs: bool = False) -> Path:
        return self.root / url.replace("\x00", "")

    ModelStore.find = carelessly  # type: ignore[method-assign]


SUITE = Suite(
    name="t9",
    title="names_paths",
    promises=("G28",),
    limits=(
        Limit("url", low=4000),
        Limit("query", low=4000),
        Limit("json", low=400),
        Limit("manifest", low=100),
        Limit("opened_outside", exactly=0),
        Limit("started", exactly=0),
        Limit("alive", exactly=1),
    ),
    controls={"any-name": _any_name},
    run=run,
)
