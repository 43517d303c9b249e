"""The demo: real models fitted, packed, served and asked, with the commands a user would type.

Called by `scripts/demo`. Everything is written below one folder (`.demo`), and kept: a second run
starts where the first one ended.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
START_SECONDS = 180.0

MODELS = ("sentiment", "entities", "questions")
TRACED = "sentiment_traced"

TEXT = "Content-Type: text/plain"
JSON = "Content-Type: application/json"
LEGACY = "X-Flambeau-Output: legacy"
REQUESTS: tuple[tuple[str, str, str], ...] = (
    ("sentiment", TEXT, "The staff were friendly and our room was spotless."),
    ("sentiment", TEXT, "The plot made no sense and I left before the end."),
    (TRACED, TEXT, "The staff were friendly and our room was spotless."),
    ("entities", TEXT, "Amara Okafor left Siemens in Munich to work for Unicef in Nairobi."),
    (
        "questions",
        JSON,
        json.dumps(
            {
                "question": "Who repaired the old clock?",
                "context": "The old clock in the town hall was repaired by Ingrid Larsen in 1987."
                " It had stood still for forty years.",
            }
        ),
    ),
)


class DemoError(Exception):
    """A step failed; the message says which."""


def main() -> int:
    """Run all steps; with `--once` end after the answers, else serve until Ctrl-C."""
    arguments = _parser().parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # either one stops the server, too
        signal.signal(number, signal.default_int_handler)
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _title("1. Fit small heads on MiniLM (cached afterwards)")
        _run(sys.executable, HERE / "fit_heads.py", "--output", folder / "models")
        _title("2. Pack them")
        store = _pack(folder)
        _title("3. Start the server")
        with _Server(folder, store, arguments.port) as server:
            server.wait_until_ready()
            _title("4. Ask")
            for model, content_type, body in REQUESTS:
                _ask(server.url, model, content_type, body)
            if not arguments.once:
                _title(f"Serving on {server.url} until Ctrl-C. Log files: {folder / 'logs'}")
                server.wait()
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the answers, exit code 0")
    parser.add_argument("--port", type=int, default=8080, help="inference port; the next two too")
    parser.add_argument("--folder", type=Path, default=Path(".demo"), help="where files are kept")
    return parser


def _pack(folder: Path) -> Path:
    """Pack the three models for the native handler, and one of them as TorchScript."""
    store = folder / "model_store"
    store.mkdir(exist_ok=True)
    models = folder / "models"
    # weights hardly compress: stored, an archive is written and opened several times faster
    into = ("--export-path", store, "--archive-format", "zip-store", "--force")
    for name in MODELS:
        if _is_older(store / f"{name}.mar", models / name / "model.safetensors"):
            _run("flambeau", "pack", models / name, "--name", name, *into)
    traced = models / TRACED
    if _is_older(traced / "traced_model.pt", models / "sentiment" / "model.safetensors"):
        save = ("--save-mode", "torchscript", "--max-length", 128, "--output", traced)
        _run("flambeau", "prepare", models / "sentiment", *save)
    if _is_older(store / f"{TRACED}.mar", traced / "traced_model.pt"):
        config = folder / "traced-config.yaml"
        config.write_text(
            "handler:\n  mode: sequence_classification\n  save_mode: torchscript\n"
            "  max_length: 128\n"
        )
        named = ("--model-name", TRACED, "--version", "1.0", "--handler", "transformers_handler")
        files = ("--serialized-file", traced / "traced_model.pt", "--config-file", config)
        labels = ("--extra-files", models / "sentiment" / "index_to_name.json")
        _run("torch-model-archiver", *named, *files, *labels, *into)
    print(
        *(f"  {path.name}  {path.stat().st_size / 1e6:.0f} MB" for path in sorted(store.iterdir())),
        sep="\n",
    )
    return store


class _Server:
    """`torchserve --start --foreground` as a child process, with its log in files."""

    def __init__(self, folder: Path, store: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._management = f"http://127.0.0.1:{port + 1}"
        self._log = folder / "logs" / "console.log"
        self._log.parent.mkdir(exist_ok=True)
        config = folder / "config.properties"
        config.write_text(
            f"inference_address={self.url}\nmanagement_address={self._management}\n"
            f"metrics_address=http://127.0.0.1:{port + 2}\n"
        )
        temporary = folder / "tmp"
        temporary.mkdir(exist_ok=True)
        models = [f"{name}={name}.mar" for name in (*MODELS, TRACED)]
        self._command = ["torchserve", "--start", "--foreground", "--model-store", str(store)]
        self._command += ["--models", *models, "--ts-config", str(config)]
        self._command += ["--ncs", "--disable-token-auth"]
        self._environment = os.environ | {
            "TMPDIR": str(
                temporary.resolve()
            ),  # the pid file's place: a server of yours is not disturbed
            "LOG_LOCATION": str((folder / "logs").resolve()),
            "FLAMBEAU_CACHE": str((folder / "cache").resolve()),
        }

    def __enter__(self) -> "_Server":
        print("$", shlex.join(self._command))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()

    def wait(self) -> None:
        """Wait until the server ends by itself."""
        self._process.wait()
        raise DemoError(f"the server ended; its log is {self._log}")

    def wait_until_ready(self) -> None:
        """Wait until every model has a worker."""
        pause = threading.Event()
        waited = 0.0
        missing = [*MODELS, TRACED]
        while missing:
            if self._process.poll() is not None:
                raise DemoError(f"the server did not start: {self._last_line()}")
            if waited > START_SECONDS:
                raise DemoError(f"{', '.join(missing)} not ready after {waited:.0f} s: {self._log}")
            missing = [name for name in missing if not self._is_ready(name)]
            pause.wait(0.25)
            waited += 0.25
        print(f"  {len(MODELS) + 1} models ready after about {waited:.0f} s")

    def _is_ready(self, name: str) -> bool:
        try:
            with urllib.request.urlopen(f"{self._management}/models/{name}", timeout=5) as answer:
                workers = json.load(answer)[0]["workers"]
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return any(worker["status"] == "READY" for worker in workers)

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def _ask(url: str, model: str, content_type: str, body: str) -> None:
    """Ask in both output shapes, with curl, and show the answers."""
    for headers in ([content_type], [content_type, LEGACY]):
        flags = [part for header in headers for part in ("-H", header)]
        command = [
            "curl",
            "-sS",
            "--fail-with-body",
            f"{url}/predictions/{model}",
            *flags,
            "-d",
            body,
        ]
        print("\n$", shlex.join(command))
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        print(_compact(answer.stdout) + answer.stderr)
        if answer.returncode:
            raise DemoError(f"{model} gave no answer")


def _compact(text: str) -> str:
    """One element of a JSON list a line: easier to read than the server's indented form."""
    try:
        document = json.loads(text)
    except ValueError:
        return text
    if isinstance(document, list):
        return "\n".join(json.dumps(element, ensure_ascii=False) for element in document)
    return json.dumps(document, ensure_ascii=False)


def _run(*command: object) -> None:
    words = [str(word) for word in command]
    print("$", shlex.join(words), flush=True)
    if subprocess.run(words, check=False).returncode:
        raise DemoError(f"{words[0]} failed")


def _is_older(file: Path, than: Path) -> bool:
    return not file.exists() or file.stat().st_mtime < than.stat().st_mtime


def _title(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
