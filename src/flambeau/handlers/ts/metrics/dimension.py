"""A metric's dimension."""

from typing_extensions import override

__all__ = ["Dimension"]


class Dimension:
    """A name and a value that tell the series of one metric apart."""

    def __init__(self, name: str, value: object) -> None:
        self.name = name
        self.value = value

    @override
    def __str__(self) -> str:
        return f"{self.name}:{self.value}"

    def to_dict(self) -> dict[str, object]:
        """`{"Name": …, "Value": …}`."""
        return {"Name": self.name, "Value": self.value}
