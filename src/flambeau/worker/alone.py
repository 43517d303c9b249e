"""`python -m flambeau.worker.alone FD`: one worker that was not forked from the zygote."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

from flambeau.worker.lifeline import go_first
from flambeau.worker.loop import work
from flambeau.worker.memory import end_without_memory

logger = logging.getLogger("flambeau.worker")


def live(descriptor: int, job: Callable[[socket.socket], int] = work) -> NoReturn:
    """Be a worker on the socket `descriptor`, or what `job` makes it, until this process ends."""
    status = 70
    go_first()
    try:
        status = job(socket.socket(fileno=descriptor))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except MemoryError:
        end_without_memory()
    except BaseException:
        logger.exception("The worker ends: an error that it does not expect")
    finally:
        os._exit(status)  # never a caller's clean-up: in a fork, that is the zygote's


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    live(int(sys.argv[1]))
