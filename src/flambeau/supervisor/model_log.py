"""Writes what handlers log and print, under the name of their process."""

import logging

from flambeau.ipc.messages import Log

model_log = logging.getLogger("MODEL_LOG")


def write_model_log(process: str, record: Log) -> None:
    """Write one record where TorchServe writes it, with `process` in place of a thread's name."""
    stream = "stderr" if record.logger == "stderr" else "stdout"
    extra = {"worker": f"{process}-{stream}"}
    model_log.log(record.level, "%s", record.message, extra=extra)
