"""A model that does what a request tells it to, and short ways to talk to a running server."""

import contextlib
import json
import os
import socket
from pathlib import Path

import httpx

from flambeau.testing.server import RunningServer
from flambeau.testing.waiting import wait_until

# Answers with what it was given; parameters travel in headers, so that any body form can be sent.
ECHO = """
import os, signal, sys, threading, time
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException

def handle(data, context):
    if data is None:
        return None
    sizes = len(data)
    answers = []
    for index, row in enumerate(data):
        headers = context.get_all_request_header(index)
        do = headers.get("x-do", "")
        if do == "raise":
            raise ValueError("secret text of an exception")
        if do == "fail":
            raise PredictionException("not today", int(headers["x-code"]))
        if do == "exit":
            os._exit(3)
        if do == "exit-once" and not os.path.exists(headers["x-file"]):
            open(headers["x-file"], "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if do == "hang":
            threading.Event().wait()
        if do == "gate":
            open(headers["x-file"] + ".in." + str(os.getpid()), "w").close()
            while not os.path.exists(headers["x-file"]):
                time.sleep(0.005)
        if do == "stream":
            for part in range(3):
                send_intermediate_predict_response(
                    [f"part {part} "] * sizes, context.request_ids, "", 200, context)
        if do == "stream-raise":
            send_intermediate_predict_response(
                ["part "] * sizes, context.request_ids, "", 200, context)
            raise ValueError("too late")
        if do == "print":
            print(headers["x-text"])
        if do == "headers":
            for name, value in (("X-Own", "yes"), ("X-Forge", "a\\r\\nx-forged: b\\x00"),
                                ("Content-Length", "1"), ("Transfer-Encoding", "chunked"),
                                ("Connection", "upgrade"), ("bad name:", "v")):
                context.set_response_header(index, name, value)
            context.set_response_content_type(index, "text/x-own")
        if "x-status" in headers:
            context.set_response_status(int(headers["x-status"]), "", index)
        if do == "error-item":
            answers.append(PredictionException("only this one", 418))
        elif do == "see":
            seen = {key: value for key, value in headers.items()}
            answers.append({"headers": seen, "id": context.get_request_id(index), "pid": os.getpid()})
        elif do == "bytes":
            answers.append(b"x" * int(headers["x-size"]))
        else:
            answers.append({"row": {key: show(value) for key, value in row.items()},
                            "batch": sizes, "pid": os.getpid()})
    return answers

def show(value):
    if isinstance(value, (bytes, bytearray)):
        return [type(value).__name__, bytes(value).decode("latin-1")]
    return [type(value).__name__, value]
"""


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback address that nobody listens at, for other processes."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]


def write_model(
    store: Path, name: str, source: str = ECHO, version: str = "1.0", **yaml: object
) -> Path:
    """Write a model folder with one handler file; `yaml` becomes its model-config.yaml."""
    folder = store / (name if version == "1.0" else f"{name}-{version}")
    (folder / "MAR-INF").mkdir(parents=True)
    (folder / "handler.py").write_text(source)
    model = {"modelName": name, "modelVersion": version, "handler": "handler.py:handle"}
    if yaml:
        (folder / "model-config.yaml").write_text(json.dumps(yaml))
        model["configFile"] = "model-config.yaml"
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": model}))
    return folder


def register(server: RunningServer, name: str, **parameters: object) -> httpx.Response:
    """Register a model folder of the store; one worker unless told otherwise."""
    query = {"url": name, "initial_workers": "1"} | {k: str(v) for k, v in parameters.items()}
    return httpx.post(f"{server.management}/models", params=query, timeout=60)


def scale(server: RunningServer, model: str, low: int, high: int | None = None) -> httpx.Response:
    """Ask for a number of workers, and wait for them."""
    maximum = low if high is None else high
    params = {"min_worker": str(low), "max_worker": str(maximum), "synchronous": "true"}
    return httpx.put(f"{server.management}/models/{model}", params=params, timeout=60)


def predict(
    server: RunningServer, model: str, content: bytes | str = b"", **headers: str
) -> httpx.Response:
    """POST a body; underscores of header names become hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{server.inference}/predictions/{model}"
    return httpx.post(url, content=content, headers=named, timeout=60)


def describe(server: RunningServer, model: str) -> dict[str, object]:
    """One element of the describe answer."""
    document: list[dict[str, object]] = httpx.get(
        f"{server.management}/models/{model}", timeout=60
    ).json()
    return document[0]


def worker_pids(server: RunningServer, model: str) -> list[int]:
    """Processes of the workers that are ready."""
    workers = describe(server, model)["workers"]
    assert isinstance(workers, list)
    return [worker["pid"] for worker in workers if worker["status"] == "READY"]


def waiting(server: RunningServer, model: str) -> int:
    """Requests that wait in a model's queue."""
    status = describe(server, model)["jobQueueStatus"]
    assert isinstance(status, dict)
    return int(status["pendingRequests"])


class Gate:
    """A file that holds handlers back (`x-do: gate`) until it is opened."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.headers = {"x_do": "gate", "x_file": str(file)}

    def entered(self) -> int:
        """How many processes have been at the gate."""
        return len(list(self.file.parent.glob(f"{self.file.name}.in.*")))

    def standing(self) -> list[int]:
        """Processes at the gate that are alive."""
        pids = [int(path.suffix[1:]) for path in self.file.parent.glob(f"{self.file.name}.in.*")]
        return [pid for pid in pids if alive(pid)]

    def wait_entered(self, count: int = 1) -> None:
        """Wait until `count` processes stand at the gate."""
        wait_until(lambda: self.entered() >= count)

    def open(self) -> None:
        """Let everybody through."""
        self.file.touch()


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet (a zombie) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(parent: int) -> set[int]:
    """Descendants of a process that are alive (zombies are not)."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, ppid = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                parents[int(entry.name)] = int(ppid)
    found = {parent}
    while more := {pid for pid, ppid in parents.items() if ppid in found} - found:
        found |= more
    return found - {parent}


def open_descriptors(pid: int | None = None) -> int:
    """How many file descriptors a process holds; None is this one."""
    return len(os.listdir(f"/proc/{pid or os.getpid()}/fd"))
