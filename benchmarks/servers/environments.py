"""An environment for each peer below .cache/bench, with its own versions of what it needs.

    python -m benchmarks.servers.environments [NAME …]

Torch is not installed a second time: the environments borrow it, and whatever else suits a peer,
from ours. TorchServe's is made by scripts/peer.
"""

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.report import ROOT

FOLDER = ROOT / ".cache" / "bench"
PACKAGES: Mapping[str, Sequence[str]] = {
    "fastapi": ("fastapi==0.165.0", "uvicorn==0.54.0"),
    "litserve": ("litserve==0.2.19",),
    "ray": ("ray[serve]==2.60.0",),
    # mlserver-huggingface 1.7.1 needs transformers 4 and optimum 1.27, which imports from torch what
    # torch 2.13 no longer has: the runtime is apps/mlserver_runtime.py instead
    # and its workers ask for an event loop as uvloop 0.22 no longer allows
    "mlserver": ("mlserver==1.7.1", "uvloop==0.21.0"),
    "infinity": ("infinity-emb[server,torch,optimum]==0.0.78",),
}
INSTALL_SECONDS = 1200.0
_TOLD = ("torchserve", "fastapi", "litserve", "ray", "mlserver", "infinity-emb", "transformers")


class UnavailableError(Exception):
    """A peer cannot be had or does not run here; says why."""


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, which is made if need be ("": ours)."""
    if not name:
        return Path(sys.executable)
    if name == "torchserve":
        return _torchserve()
    folder = FOLDER / name
    complete = folder / "complete"
    wanted = " ".join(PACKAGES[name])
    if not complete.exists() or complete.read_text() != wanted:
        print(f"Setting up {name} in {folder} …", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _install(folder, PACKAGES[name])
        complete.write_text(wanted)
    return folder / "bin" / "python"


def versions_in(name: str) -> str:
    """The versions that matter in a peer's environment; "" where it cannot be made."""
    if not name:
        return "this checkout"
    code = (
        "import importlib.metadata as m\n"
        f"for name in {_TOLD!r}:\n"
        "  try: print(name, m.version(name), end=', ')\n"
        "  except m.PackageNotFoundError: pass\n"
    )
    try:
        done = subprocess.run([python_of(name), "-c", code], capture_output=True, text=True)
    except UnavailableError:
        return ""
    return done.stdout.rstrip(", ")


def _torchserve() -> Path:
    if shutil.which("java") is None:
        raise UnavailableError("needs Java")
    done = subprocess.run(
        [ROOT / "scripts" / "peer"], capture_output=True, text=True, timeout=INSTALL_SECONDS
    )
    if done.returncode:
        raise UnavailableError(_last_line(done.stderr))
    return Path(done.stdout.split()[-1]) / "bin" / "python"


def _install(folder: Path, packages: Sequence[str]) -> None:
    _run(sys.executable, "-m", "venv", str(folder))
    borrowed = sysconfig.get_paths()["purelib"]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = folder / "lib" / version / "site-packages"
    (own / "borrowed.pth").write_text(borrowed + "\n")
    constraints = folder / "constraints.txt"
    constraints.write_text("torch==2.13.0\n")
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    _run(*pip, "install", "--quiet", "--constraint", str(constraints), *packages)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"not installed within {error.timeout:g} s") from error
    if done.returncode:
        raise UnavailableError(f"does not install: {_last_line(done.stderr)}")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"


if __name__ == "__main__":
    for chosen in sys.argv[1:] or [*PACKAGES, "torchserve"]:
        print(chosen, python_of(chosen))
