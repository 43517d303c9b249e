"""What the archiver raises."""


class ModelArchiverError(Exception):
    """A model cannot be packed; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class ModelFileNotFoundError(ModelArchiverError, FileNotFoundError):
    """A file that was named does not exist. TorchServe's archiver raises FileNotFoundError."""
