"""Metrics of the server as a whole, without a model: what it lost or could not keep."""

from collections.abc import Iterator

from flambeau.telemetry.families import Family
from flambeau.telemetry.writer import lost_lines
from flambeau.types import MetricSpec


class ServerMetrics:
    """One family each; its series are there from the start, so that an alert can be written."""

    def __init__(self) -> None:
        self._lines = _counter("log_lines_lost_total", "Log lines that were not written", "reason")
        self._snapshots = _counter("snapshot_failures_total", "Snapshots that were not written")
        self._told = dict.fromkeys(lost_lines, 0)
        self.snapshot_failed = self._snapshots.series(())
        """Takes how many snapshots failed."""
        self.snapshot_failed(0)

    def families(self) -> Iterator[Family]:
        """All of them, in a fixed order, with what was lost until now."""
        for reason, count in list(lost_lines.items()):
            self._lines.update((reason,), count - self._told[reason])
            self._told[reason] = count
        yield self._lines
        yield self._snapshots


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(MetricSpec(f"flambeau_{name}", "", "counter", labels), text)
