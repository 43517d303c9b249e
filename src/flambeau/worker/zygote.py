"""The zygote: imports the frameworks once, then forks a worker in milliseconds when asked.

Rules: it runs one thread only, so a fork copies no held lock; it never touches an accelerator,
since a forked CUDA context cannot be used; it holds no model and no user's code. It exits when the
server's end of the control socket closes.
"""

import gc
import importlib
import logging
import os
import signal
import socket
from typing import NoReturn

from flambeau.ipc.messages import Fork, ZygoteReady
from flambeau.worker.alone import live
from flambeau.worker.devices import count_gpus, framework_versions
from flambeau.worker.forking import ForkServer
from flambeau.worker.template import serve_template

logger = logging.getLogger("flambeau.worker")


class Zygote:
    """Parent of all workers, and of the templates of models whose workers share their weights."""

    def __init__(self, control: socket.socket, preload: list[str]) -> None:
        self._control = control
        self._preload = preload

    def serve(self) -> int:
        """Fork on request and report ends until the server is gone."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
        for name in self._preload:
            self._import(name)
        gc.collect()
        gc.freeze()  # keeps the collector from writing into pages that workers share
        ready = ZygoteReady(os.getpid(), count_gpus(), framework_versions())
        ForkServer(self._control, _become).serve(ready)
        return 0

    @staticmethod
    def _import(name: str) -> None:
        try:
            importlib.import_module(name)
        except Exception:
            # A worker that needs it meets the same error, and can tell whoever loads the model.
            logger.exception("%s cannot be imported ahead of time", name)


def _become(message: Fork, descriptor: int) -> NoReturn:
    if message.template:
        live(descriptor, serve_template)
    live(descriptor)
