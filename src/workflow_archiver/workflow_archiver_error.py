"""What the archiver raises."""


class WorkflowArchiverError(Exception):
    """A workflow cannot be packed; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
