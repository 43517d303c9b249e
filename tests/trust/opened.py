"""Which paths a server opens and which programs it starts, as its own interpreter tells (PEP 578)."""

import os
import sys
from pathlib import Path

OPENED = "FLAMBEAU_TRUST_OPENED"
"""The variable that asks a server for a report: `FILE:MARK`. What has the mark in it is reported."""

_STARTS = frozenset({"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.spawn"})
_OPENS = frozenset(
    {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink",
     "os.rmdir", "os.truncate", "os.chmod", "shutil.rmtree", "shutil.move", "shutil.copyfile"}
)  # fmt: skip


def report_opened() -> None:
    """Report from now on, if the variable asks for it; done by servers that a suite has started."""
    file, _, mark = os.environ.get(OPENED, "").rpartition(":")
    if not file:
        return
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event not in _OPENS and event not in _STARTS:
            return
        for argument in arguments[
            :2
        ]:  # what comes after a program and its arguments is its environment
            text = (
                os.fsdecode(argument)
                if isinstance(argument, (bytes, os.PathLike))
                else str(argument)
            )
            if mark in text:
                kind = "started" if event in _STARTS else "opened"
                path = os.path.abspath(text) if kind == "opened" else text
                os.write(descriptor, f"{kind} {path!a}\n".encode())

    sys.addaudithook(hook)


def read_opened(file: Path) -> tuple[list[str], int]:
    """Paths that were opened, and how many programs were started."""
    from ast import literal_eval

    lines = file.read_text().splitlines() if file.exists() else []
    opened = [literal_eval(line.partition(" ")[2]) for line in lines if line.startswith("opened ")]
    return opened, sum(line.startswith("started ") for line in lines)
