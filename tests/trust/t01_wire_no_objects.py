"""T1: bytes from outside never become objects: in the source, on every route, on the worker's socket."""

import ast
import io
import itertools
import os
import pickle
import socket
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
from starlette.types import Scope
from typing_extensions import override

from flambeau.frontend import tripwire
from flambeau.ipc.framing import HEADER
from flambeau.protocols import prediction
from tests.trust.servers import trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_SOURCE = Path(__file__).parents[2] / "src"
_MODULES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
_CALLS = {"eval", "exec"}


def run(run: Run) -> Figures:
    """Look at the source, send payloads to routes and to a worker, and see whether any ran."""
    found = list(itertools.chain.from_iterable(map(_decoders, sorted(_SOURCE.rglob("*.py")))))
    mark = run.folder / "ran"
    sent = answered_5xx = 0
    with trust_server(run) as server, httpx.Client(timeout=30) as client:
        for (kind, body), (base, method, path) in itertools.product(
            _payloads(mark), _routes(server.inference, server.management)
        ):
            try:
                answer = client.request(
                    method, base + path, content=body, headers={"Content-Type": kind}
                )
                answered_5xx += answer.status_code in (500, 502)
            except httpx.HTTPError:
                answered_5xx += 1
            sent += 1
        alive = server.alive()
        tripped = server.process.poll() == tripwire.TRIPPED
    framed = sum(_send_to_worker(body) for _, body in _payloads(mark)[:5])
    return {
        "decoders": len(found),
        "found": " ".join(found),
        "payloads": sent + framed,
        "executed": int(mark.exists()),
        "answered_5xx": answered_5xx,
        "tripwires": int(tripped),
        "armed": int(_is_armed()),
        "alive": int(alive),
    }


class _Runs:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    @override
    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self._mark), os.O_CREAT)


def _payloads(mark: Path) -> list[tuple[str, bytes]]:
    """Content type and body; each creates the file `mark` where it is decoded as an object."""
    plain = pickle.dumps(_Runs(mark))
    torch_zip, npz = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(torch_zip, "w") as archive:
        archive.writestr("archive/data.pkl", plain)
        archive.writestr("archive/version", "3")
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + plain
    with zipfile.ZipFile(npz, "w") as archive:
        archive.writestr("a.npy", npy)
    yaml = f"!!python/object/apply:os.open ['{mark}', {os.O_CREAT}]\n".encode()
    kinds = {
        "application/octet-stream": (plain, torch_zip.getvalue(), npz.getvalue(), npy),
        "application/vnd.bentoml+pickle": (plain,),
        "application/x-python-pickle": (plain, pickle.dumps(_Runs(mark), 0)),
        "application/x-dill": (b"\x80\x04" + plain[2:],),
        "application/json": (plain, yaml),
        "application/x-yaml": (yaml,),
        "application/x-npy": (npy,),
        "text/plain": (yaml, pickle.dumps(_Runs(mark), 0)),
    }
    return [(kind, body) for kind, bodies in kinds.items() for body in bodies]


def _routes(inference: str, management: str) -> list[tuple[str, str, str]]:
    return [
        *[
            (inference, "POST", path)
            for path in (
                "/predictions/stub", "/predictions/stub/1.0", "/explanations/stub",
                "/invocations", "/models/stub/invoke", "/v1/models/stub:predict",
                "/v2/models/stub/infer", "/predictions/none",
            )
        ],
        (inference, "PUT", "/predictions/stub"),
        (inference, "OPTIONS", "/"),
        (management, "POST", "/models"),
        (management, "PUT", "/models/stub"),
        (management, "PUT", "/models/stub/1.0/set-default"),
        (management, "GET", "/models/stub?customized=true"),
        (management, "DELETE", "/models/none"),
    ]  # fmt: skip


def _send_to_worker(body: bytes) -> int:
    """Frame a payload as the server's first message; the worker must end of it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "flambeau.worker.alone", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        ours.sendall(HEADER.pack(len(body)) + body)
        ours.shutdown(socket.SHUT_WR)
        worker.wait(60)
    return 1


def _is_armed() -> bool:
    """Whether a process that has the wire and unpickles an object ends by it."""
    code = (
        "from tests.trust.running import apply_flaw; apply_flaw()\n"
        "import pickle; from flambeau.frontend import tripwire; tripwire.arm()\n"
        "pickle.loads(b'cos\\ngetpid\\n(tR.')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, stderr=subprocess.DEVNULL, cwd=_SOURCE.parent
    )
    return done.returncode == tripwire.TRIPPED


def _decoders(file: Path) -> Iterator[str]:
    """What in a file of the source makes objects of bytes; pickle may be named for its error."""
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names if each.name != "pickle" or each.asname]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            names = [] if node.attr == "UnpicklingError" else ["pickle"]
        if _MODULES & {name.partition(".")[0] for name in names}:
            yield f"{file.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and _makes_objects(node):
            yield f"{file.name}:{node.lineno}"


def _makes_objects(call: ast.Call) -> bool:
    told = ast.unparse(call.func)
    words = {each.arg: ast.unparse(each.value) for each in call.keywords}
    if told in _CALLS:
        return True
    if told == "torch.load":
        return words.get("weights_only") != "True"
    if told.endswith("yaml.load"):
        return "Safe" not in ast.unparse(call)
    return words.get("allow_pickle", "False") != "False"


def _unpickle() -> None:
    """Decode what comes as a pickle, as several servers did."""
    before = prediction._handler_headers

    def carelessly(call: prediction.Call, scope: Scope) -> dict[str, str]:
        pickle.loads(b"cos\ngetpid\n(tR.")
        return before(call, scope)

    prediction._handler_headers = carelessly


def _no_wire() -> None:
    """Forget that unpickling ends a server."""
    tripwire.arm = lambda: None


SUITE = Suite(
    name="t1",
    title="wire_no_objects",
    promises=("G30",),
    limits=(
        Limit("decoders", exactly=0),
        Limit("payloads", low=200),
        Limit("executed", exactly=0),
        Limit("answered_5xx", exactly=0),
        Limit("tripwires", exactly=0),
        Limit("armed", exactly=1),
        Limit("alive", exactly=1),
    ),
    controls={"unpickle": _unpickle, "no-wire": _no_wire},
    run=run,
)
