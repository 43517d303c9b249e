"""Starts the process that takes the longest to get ready, before this one imports the server."""

import contextlib
from collections.abc import Iterator

from flambeau.config import ServerConfig, worker_environment
from flambeau.supervisor.zygote import Zygote


@contextlib.contextmanager
def early_zygote(config: ServerConfig) -> Iterator[Zygote]:
    """The zygote for `flambeau.server.serve`; what is imported meanwhile costs no time of a start."""
    zygote = Zygote(config.preload, worker_environment(config))
    zygote.start_early()
    try:
        yield zygote
    finally:
        zygote.abandon()  # unless a server has taken it over
