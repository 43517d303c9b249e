"""Virtual environments for models that bring a requirements file (contract.md section 4.6).

One folder per distinct requirements, `cache/<digest>/`, made once and shared by all models and
registrations that ask for the same. It sees the server's own packages, so only what is missing or
has another version is installed; what is installed in it comes first.
"""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import venv
from collections.abc import AsyncIterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

from flambeau import __version__
from flambeau.errors import STORAGE_ERRNOS, ErrorKind, FlambeauError, StorageError

logger = logging.getLogger(__name__)

_MADE = "made"
"""The file that says that an environment is whole, the last thing that is written."""

_LOCK_SECONDS = 0.2
"""Between two looks at a lock that another server has."""

_PLAIN = re.compile(r"\s*([A-Za-z0-9][^/@\\]*)?(#.*)?")
"""A requirement by name, or nothing: it means the same in every archive."""


class Environments:
    """Environments below `cache`, made with the server's interpreter within `seconds`."""

    def __init__(self, cache: Path, environment: Mapping[str, str], seconds: float) -> None:
        self._cache = cache
        self._environment = environment
        self._seconds = seconds
        self._making: dict[Path, asyncio.Lock] = {}
        self._running: set[int] = set()
        self._closed = asyncio.Event()

    async def python(self, model: str, requirements: Path | None) -> str:
        """Return the interpreter of the environment for a requirements file, or an empty one.

        Raises `FlambeauError` with TorchServe's text and pip's reason, and `StorageError`.
        """
        folder = self._cache / await asyncio.to_thread(_digest, requirements)
        try:
            await asyncio.to_thread(self._cache.mkdir, parents=True, exist_ok=True)
            making = self._making.setdefault(folder, asyncio.Lock())
            async with making, self._locked(folder.with_name(f".{folder.name}.lock"), model):
                if not (folder / _MADE).exists():
                    async with asyncio.timeout(self._seconds):
                        await self._make(folder, model, requirements)
        except TimeoutError:
            text = f"not finished within {self._seconds:g} s (install_py_dep_timeout)"
            raise _failed(_INSTALLATION, model, text) from None
        except (OSError, subprocess.SubprocessError) as error:
            if isinstance(error, OSError) and error.errno in STORAGE_ERRNOS:
                raise StorageError(f"{_CREATION} failed for model {model}", error) from error
            raise _failed(_CREATION, model, str(error)) from error
        return str(folder / "bin" / "python")

    def close(self) -> None:
        """End all installations now, for good; whoever waits for one gets its error."""
        self._closed.set()
        for pid in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # pip starts compilers

    async def _make(self, folder: Path, model: str, requirements: Path | None) -> None:
        await asyncio.to_thread(_create, folder)
        python = str(folder / "bin" / "python")
        if requirements is not None:
            logger.info("Installing the packages of model %s into %s", model, folder)
            # -P: an archive's own pip.py must not be taken for the tool
            status, output = await self._run(
                python, "-P", "-m", "pip", "install", "--disable-pip-version-check", "--no-input",
                "-r", requirements.name, folder=requirements.parent,
            )  # fmt: skip
            for line in output.splitlines():
                logger.info("pip, model %s: %s", model, line)
            if status:
                if str(_DISK_FULL.strerror) in output:
                    raise StorageError(f"{_INSTALLATION} failed for model {model}", _DISK_FULL)
                stopped = _STOPPING if self._closed.is_set() else ""
                raise _failed(_INSTALLATION, model, stopped or _reason(output))
        (folder / _MADE).touch()

    @contextlib.asynccontextmanager
    async def _locked(self, path: Path, model: str) -> AsyncIterator[None]:
        """Hold an exclusive lock on the file `path` against other servers of this cache.

        Asked for now and then: a thread that waits for it would hold the stop up.
        """
        with path.open("wb") as file:
            while not _try_lock(file):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closed.wait(), _LOCK_SECONDS)
                    raise _failed(_INSTALLATION, model, _STOPPING)
            yield

    async def _run(self, *command: str, folder: Path) -> tuple[int, str]:
        """Run a command to its end; returns its status and what it printed."""
        if self._closed.is_set():
            return -signal.SIGKILL, ""
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env=dict(self._environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._running.add(process.pid)
        try:
            output, _ = await process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            self._running.discard(process.pid)
        return process.returncode or 0, output.decode(errors="replace")


_DISK_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
_STOPPING = "the server is stopping"
_CREATION = "Virtual environment creation"
_INSTALLATION = "Custom pip package installation"


def _create(folder: Path) -> None:
    """Make an environment without packages of its own; pip is seen among the server's."""
    shutil.rmtree(folder, ignore_errors=True)  # a leftover of an interrupted installation
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "flambeau-server.pth").write_text(_see_our_packages())


def _failed(step: str, model: str, reason: str) -> FlambeauError:
    return FlambeauError(ErrorKind.MODEL_SETUP, f"{step} failed for model {model}: {reason}")


def _reason(output: str) -> str:
    """Pip's own errors in one line, or the last line where it names none."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return "; ".join(errors or lines[-1:]) or "it gave no reason"


def _digest(requirements: Path | None) -> str:
    """Equal where the same command would install the same: requirements, and what is here already.

    A requirements file that names files means something in its own folder only.
    """
    text = requirements.read_bytes() if requirements is not None else b""
    lines = text.decode(errors="replace").splitlines()
    scope = "" if all(_PLAIN.fullmatch(line) for line in lines) else str(requirements)
    here = sorted(f"{each.name}=={each.version}" for each in metadata.distributions())
    parts = [__version__, sys.version, sys.prefix, scope, *here]
    return hashlib.sha256("\0".join(parts).encode() + b"\0" + text).hexdigest()


def _see_our_packages() -> str:
    """Lines of a .pth file: the server's folders of packages, their own .pth files included."""
    folders = [
        *site.getsitepackages(),
        *([site.getusersitepackages()] if site.ENABLE_USER_SITE else []),
    ]
    own = [path for path in sys.path if path and path not in folders and not _is_standard(path)]
    lines = [f"import site; site.addsitedir({folder!r})" for folder in folders]
    return "\n".join([*lines, *own]) + "\n"


def _is_standard(path: str) -> bool:
    """Whether a folder belongs to Python itself, which the environment has anyway."""
    return path.endswith(".zip") or Path(path).is_relative_to(Path(os.__file__).parent)


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
