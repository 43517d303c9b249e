"""The manifest as a whole."""

import json

from typing_extensions import override

from flambeau.archive.manifest import new_manifest_header
from workflow_archiver.manifest_components.workflow import Workflow


class Manifest:
    """What is written to the archive; `str()` is its JSON."""

    def __init__(self, workflow: Workflow) -> None:
        self.creation_time, self.archiver_version = new_manifest_header()
        self.workflow = workflow
        self.manifest_dict = self.__to_dict__()

    def __to_dict__(self) -> dict[str, object]:
        return {
            "createdOn": self.creation_time,
            "workflow": self.workflow.workflow_dict,
            "archiverVersion": self.archiver_version,
        }

    @override
    def __str__(self) -> str:
        return json.dumps(self.manifest_dict, indent=2)

    __repr__ = __str__
