"""Tasks whose inputs are files, such as pictures: the body itself, or base64 within JSON."""

from collections.abc import Sequence

from typing_extensions import override

from flambeau.tasks.base.binary import NotAFileError, file_bytes, is_json
from flambeau.tasks.base.parsing import RowValue
from flambeau.tasks.base.task import ForwardTask, Inputs


class FileTask(ForwardTask):
    """A task that reads files."""

    @override
    def parse(self, value: RowValue) -> Inputs:
        if isinstance(value, bytearray | memoryview):
            value = bytes(value)
        if isinstance(value, bytes) and not is_json(value):
            return Inputs([self.read_entry(value)], parameters=self.read_parameters(None))
        return super().parse(value)

    def read_file(self, value: RowValue, what: str, names: Sequence[str]) -> bytes:
        """The file of an entry: the value itself, or that of an object under one of these names.

        Raises `PredictionError` (`INVALID_INPUT`), in which `what` stands for the file.
        """
        if isinstance(value, dict):
            files = (value.get(name) for name in names)
            value = next((file for file in files if file is not None), None)
            if value is None:
                raise self.invalid(f"the object has no '{names[0]}'")
        try:
            return file_bytes(value, what)
        except NotAFileError as error:
            raise self.invalid(str(error)) from None
