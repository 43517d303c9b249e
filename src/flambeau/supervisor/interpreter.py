"""Workers with a fresh interpreter, for models that have packages or ranks of their own.

They cost what TorchServe's workers cost: each imports its frameworks itself.
"""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from flambeau.config import private_folder
from flambeau.supervisor.launcher import LaunchedWorker, ProcessHandle


class Interpreter:
    """Starts workers as `python -m flambeau.worker.alone`, with an environment of their own."""

    def __init__(self, python: str, environment: Mapping[str, str]) -> None:
        self._python = python
        self.environment = environment
        self._lives: set[asyncio.Future[None]] = set()

    def with_variables(self, variables: Mapping[str, str]) -> "Interpreter":
        """The same interpreter with more environment variables."""
        return Interpreter(self._python, {**self.environment, **variables})

    def that_sees(self, devices: Sequence[int]) -> "Interpreter":
        """The same interpreter with only these of the server's devices in its sight."""
        variable = "HIP_VISIBLE_DEVICES" if Path("/dev/kfd").exists() else "CUDA_VISIBLE_DEVICES"
        seen = [name for name in self.environment.get(variable, "").split(",") if name]
        names = [seen[device] if device < len(seen) else str(device) for device in devices]
        return self.with_variables({variable: ",".join(names)})

    def launch(self, sock: socket.socket) -> LaunchedWorker:
        """Start a worker that talks over `sock`, which is closed on this side."""
        worker = LaunchedWorker()
        life = asyncio.ensure_future(self._live(worker, sock))
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)
        life.add_done_callback(lambda _: sock.close())  # also if it was cancelled before it began
        return worker

    async def _live(self, worker: LaunchedWorker, sock: socket.socket) -> None:
        try:
            with sock:  # the worker's end: open here, its end would not be noticed
                # -P: a torch.py in the working directory must not be taken for the library
                process = await asyncio.create_subprocess_exec(
                    self._python, "-P", "-m", "flambeau.worker.alone", str(sock.fileno()),
                    pass_fds=[sock.fileno()],
                    stdin=subprocess.DEVNULL,
                    env=dict(self.environment),
                    start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            worker.give_up(f"{self._python} could not be started: {error}")
            worker.exited.set_result(None)
            return
        handle = ProcessHandle(process.pid)
        if worker.started.done():  # nobody waits any more: it ends by its closed socket
            handle.close()
        else:
            worker.started.set_result(handle)
        status = await process.wait()
        await asyncio.to_thread(shutil.rmtree, private_folder(process.pid), ignore_errors=True)
        worker.exited.set_result(status)
