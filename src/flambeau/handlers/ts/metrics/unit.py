"""How TorchServe spells units."""

from typing import Final

__all__ = ["UNIT_NAMES", "Units"]

UNIT_NAMES: Final[dict[str | None, str]] = {
    "ms": "Milliseconds",
    "s": "Seconds",
    "percent": "Percent",
    "count": "Count",
    "MB": "Megabytes",
    "GB": "Gigabytes",
    "kB": "Kilobytes",
    "B": "Bytes",
    "": "unit",
    None: "unit",
}
"""Short form → the form in metric lines and on `/metrics`; any other unit stays as it is."""


class Units:
    """`units` is the table."""

    def __init__(self) -> None:
        self.units = dict(UNIT_NAMES)
