"""The manifest's `workflow` object."""

import json
import os

from typing_extensions import override


class Workflow:
    """A workflow in the manifest; paths are reduced to their last part. `str()` is its JSON."""

    def __init__(self, workflow_name: str, spec_file: str, handler: str | None = None) -> None:
        self.workflow_name = workflow_name
        self.spec_file = os.path.basename(spec_file)
        self.handler = os.path.basename(handler) if handler else None
        self.workflow_dict = self.__to_dict__()

    def __to_dict__(self) -> dict[str, str]:
        record = {"workflowName": self.workflow_name, "specFile": self.spec_file}
        if self.handler:
            record["handler"] = self.handler
        return record

    @override
    def __str__(self) -> str:
        return json.dumps(self.workflow_dict)

    __repr__ = __str__
