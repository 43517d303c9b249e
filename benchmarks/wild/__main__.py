"""Load and ask the handlers of a TorchServe checkout, unmodified.

    python -m benchmarks.wild CHECKOUT [--packages FOLDER] [--only NAME]

First the cases of cases.py, each with a small model of its own; then every other handler file is
loaded alone, to see that what it lacks is told in one line. `--packages` is a folder with packages
that handlers import and this environment lacks (`pip install --target`). The exit code is 1 if a
case gives a wrong answer.
"""

import argparse
import ast
import json
import os
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from benchmarks.wild.cases import CASES, Case
from flambeau.testing.server import RunningServer, running_server

_HANDLER = re.compile(r"^(from|import) ts\b|def handle\(", re.MULTILINE)


def main() -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.wild", description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--packages", type=Path)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    checkout: Path = arguments.checkout.resolve()
    if arguments.packages:
        os.environ["PYTHONPATH"] = str(arguments.packages.resolve())
        sys.path.insert(0, os.environ["PYTHONPATH"])
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="wild-") as folder:
        store = Path(folder) / "store"
        store.mkdir()
        settings: dict[str, object] = {"default_response_timeout": 180}
        metrics = checkout / "examples/custom_metrics/metrics.yaml"
        if metrics.is_file():
            settings["metrics_config"] = metrics
        with running_server(store, Path(folder) / "cache", **settings) as server:
            for case in CASES:
                if arguments.only in case.name:
                    result = _answer(server, store, checkout, case)
                    wrong += result != "works"
                    print(f"{case.name:24} {result}", flush=True)
            if not arguments.only:
                for name, result in _load_all(server, store, checkout):
                    print(f"{name:84} {result}", flush=True)
    return int(wrong > 0)


def _answer(server: RunningServer, store: Path, checkout: Path, case: Case) -> str:
    """ "works", or what went wrong with a case."""
    model = dict(case.model)
    files = {"model-config.yaml": case.config.encode(), **case.files(checkout)}
    if case.handler:
        files["handler.py"] = _source(checkout / case.handler, case.string)
        entry = model.pop("entry", "")
        model["handler"] = f"handler.py:{entry}" if entry else "handler.py"
    _write(store / case.name, case.name, files, {**model, "configFile": "model-config.yaml"})
    registered = _register(server, case.name)
    if registered:
        return registered
    url = f"{server.inference}/predictions/{case.name}{case.path}"

    def ask(request: dict[str, object]) -> httpx.Response:
        return httpx.post(url, timeout=300, **request)

    if "sequence" in str(case.requests):
        answers = [ask(request) for request in case.requests]
    else:
        with ThreadPoolExecutor(len(case.requests)) as threads:
            answers = list(threads.map(ask, case.requests))
    httpx.delete(f"{server.management}/models/{case.name}", timeout=60)
    if case.check(answers):
        return "works"
    return (
        "WRONG: " + "; ".join(f"{answer.status_code} {answer.text!r}" for answer in answers)[:300]
    )


def _load_all(server: RunningServer, store: Path, checkout: Path) -> list[tuple[str, str]]:
    """What loading each handler file that is no case says."""
    used = {case.handler for case in CASES}
    results = []
    for path in sorted((checkout / "examples").rglob("*.py")):
        name = str(path.relative_to(checkout))
        source = path.read_text(encoding="utf-8")
        if name in used or not _HANDLER.search(source) or path.name.startswith("test_"):
            continue
        model = re.sub(r"\W+", "-", name)[-60:].strip("-_")
        _write(store / model, model, {"handler.py": source.encode()}, {"handler": "handler.py"})
        told = _register(server, model) or "loads"
        results.append((name, told.partition("version: 1.0: ")[2] or told))
        httpx.delete(f"{server.management}/models/{model}", timeout=60)
    return results


def _source(path: Path, string: int) -> bytes:
    """A handler's file, or the handler that is a string in a file of tests."""
    source = path.read_text(encoding="utf-8")
    if not string:
        return source.encode()
    strings = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    code = [text for text in strings if "\nclass " in text or "\ndef handle" in text]
    return code[string - 1].encode()


def _write(folder: Path, name: str, files: dict[str, bytes], model: dict[str, str]) -> None:
    """An archive as a folder."""
    manifest = {"model": {"modelName": name, "modelVersion": "1.0", **model}}
    for file, content in {**files, "MAR-INF/MANIFEST.json": json.dumps(manifest).encode()}.items():
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _register(server: RunningServer, name: str) -> str:
    """Register a model with one worker; returns what went wrong, "" if nothing did."""
    parameters = {"url": name, "initial_workers": "1", "synchronous": "true"}
    answer = httpx.post(f"{server.management}/models", params=parameters, timeout=180)
    return "" if answer.is_success else str(answer.json()["message"])


if __name__ == "__main__":
    sys.exit(main())
