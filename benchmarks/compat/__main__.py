"""Ask both servers the same requests, print where the answers differ.

    python -m benchmarks.compat --torchserve-venv "$(scripts/peer)"

Each difference is either listed in listed.py with its reason (docs/migrating.md says more), or an
error: the exit code is 1 then. Needs Java.
"""

import argparse
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx

from benchmarks.compat.cases import Case, all_cases, token_cases
from benchmarks.compat.compare import Answer, answer_of
from benchmarks.compat.listed import reason
from benchmarks.compat.servers import Server, running
from benchmarks.compat.store import STARTUP, write_later, write_store

SECONDS = 60.0


class Difference(NamedTuple):
    """A case whose answers differ; `reason` is "" where nobody has listed it."""

    case: Case
    parts: list[str]
    reason: str


def main() -> int:
    """Run the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.compat", description=__doc__)
    parser.add_argument("--torchserve-venv", type=Path, required=True)
    parser.add_argument("--flambeau", type=Path, default=Path(sys.executable).parent / "torchserve")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    arguments = parser.parse_args()
    commands = {
        "torchserve": arguments.torchserve_venv / "bin" / "torchserve",
        "flambeau": arguments.flambeau,
    }
    with tempfile.TemporaryDirectory(prefix="compat-") as folder:
        found: list[Difference] = []
        count = 0
        for label, cases, tokens in (("open", all_cases(), False), ("tokens", token_cases(), True)):
            chosen = [case for case in cases if arguments.only in case.name]
            if not chosen:
                continue
            count += len(chosen)
            with ThreadPoolExecutor(len(commands)) as threads:
                answers = list(
                    threads.map(
                        lambda name, label=label, chosen=chosen, tokens=tokens: _ask_all(
                            name, commands[name], Path(folder) / f"{name}-{label}", chosen, tokens
                        ),
                        commands,
                    )
                )
            found += _compare(chosen, *answers)
    return _report(count, found)


def _ask_all(
    name: str, command: Path, folder: Path, cases: list[Case], tokens: bool
) -> list[Answer]:
    folder.mkdir()
    store = folder / "store"
    write_store(store)
    with running(
        name, command, store, folder / "run", tokens=tokens, models=len(STARTUP)
    ) as server:
        write_later(store)
        return [_ask(server, case) for case in cases]


def _ask(server: Server, case: Case) -> Answer:
    headers = dict(case.headers)
    file = server.folder / "key_file.json"
    if file.exists():
        keys = {name: entry["key"] for name, entry in json.loads(file.read_text()).items()}
        headers = {name: value.format_map(keys) for name, value in headers.items()}
        if case.key:
            headers["Authorization"] = f"Bearer {keys[case.key]}"
    url = server.url(case.port) + case.path
    try:
        with httpx.Client(timeout=SECONDS) as client:
            # None of httpx's own headers: only what the case says.
            request = httpx.Request(case.method, url, content=case.body, headers=headers)
            return answer_of(client.send(request))
    except httpx.TransportError as error:
        return Answer(0, "", {}, False, f"no answer: {type(error).__name__}")


def _compare(cases: list[Case], theirs: list[Answer], ours: list[Answer]) -> list[Difference]:
    found = []
    for case, one, other in zip(cases, theirs, ours, strict=True):
        parts = one.differences(other)
        if parts:
            found.append(Difference(case, parts, reason(case.name, parts)))
    return found


def _report(count: int, found: list[Difference]) -> int:
    unlisted = [each for each in found if not each.reason]
    for title, group in (
        ("listed", [each for each in found if each.reason]),
        ("NOT LISTED", unlisted),
    ):
        for case, parts, why in group:
            print(f"{title}: {case.name}{' - ' if why else ''}{why}")
            for part in parts:
                print(f"    {part}")
    print(
        f"{count} requests, {count - len(found)} answers equal, {len(found) - len(unlisted)} differ"
        f" as listed, {len(unlisted)} differ otherwise (left: TorchServe, right: Flambeau)"
    )
    return 1 if unlisted else 0


if __name__ == "__main__":
    sys.exit(main())
