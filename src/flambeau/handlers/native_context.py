"""What the native handler needs of TorchServe's context."""

from collections.abc import Mapping
from typing import Protocol

from flambeau.types import Precision


class HandlerContext(Protocol):
    """What the handler needs of TorchServe's context."""

    @property
    def system_properties(self) -> Mapping[str, object]:
        """`model_dir` and `gpu_id` count here."""

    @property
    def compute_threads(self) -> int:
        """The worker's share of the cores, 0 if nobody says."""

    @property
    def measured_engine(self) -> tuple[str, Precision] | None:
        """The engine and the precision that `flambeau tune` found best, if it was asked."""

    @property
    def to_fork(self) -> bool:
        """Whether this process is to be forked once the model is loaded."""

    @property
    def manifest(self) -> Mapping[str, object] | None:
        """The archive's MANIFEST.json."""

    @property
    def model_yaml_config(self) -> Mapping[str, object]:
        """The archive's model-config.yaml; {} where it has none."""

    def get_request_header(self, idx: int, key: str) -> object:
        """A header of item `idx`, its name in any case."""

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a header of the answer to item `idx`."""

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the content type of the answer to item `idx`."""
