"""What `metrics.yaml` declares (contract.md section 7.5)."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from flambeau.errors import ConfigError
from flambeau.types import MetricKind, MetricSpec

DEFAULT_FILE = Path(__file__).with_name("metrics.yaml")
"""TorchServe's own set of metrics."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    unit: str
    dimensions: tuple[str, ...] = ()


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    counter: tuple[_Entry, ...] | None = None
    gauge: tuple[_Entry, ...] | None = None
    histogram: tuple[_Entry, ...] | None = None


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dimensions: list[str] | None = None
    ts_metrics: _Section | None = None
    model_metrics: _Section | None = None


class MetricsConfig(msgspec.Struct, frozen=True):
    """The metrics that are produced. `ts` has the host's label among the dimensions, last."""

    ts: Mapping[str, MetricSpec] = {}
    model: Mapping[str, MetricSpec] = {}


def parse_metrics_config(document: Mapping[str, object], place: Path) -> MetricsConfig:
    """Check a parsed `metrics.yaml`. Raises `ConfigError` that names the file and the entry."""
    try:
        parsed = msgspec.convert(document, _Document)
    except msgspec.ValidationError as error:
        raise _wrong(place, str(error).replace("`$.", "`")) from error
    if parsed.model_metrics is None or not any(_entries(parsed.model_metrics)):
        raise _wrong(place, "it has no model_metrics: declare at least PredictionTime")
    found = {}
    for title, section in (
        ("ts_metrics", parsed.ts_metrics),
        ("model_metrics", parsed.model_metrics),
    ):
        specs: dict[str, MetricSpec] = {}
        for kind, index, entry in _entries(section):
            where = f"{title}.{kind}[{index}]"
            if not entry.name or not entry.unit:
                raise _wrong(place, f"{where} needs a name and a unit")
            if entry.name in specs:
                raise _wrong(place, f"{where}: {entry.name} is declared twice")
            specs[entry.name] = MetricSpec(entry.name, entry.unit, kind, entry.dimensions)
        found[title] = specs
    return MetricsConfig(found["ts_metrics"], found["model_metrics"])


def _entries(section: _Section | None) -> Iterator[tuple[MetricKind, int, _Entry]]:
    kinds: tuple[MetricKind, ...] = ("counter", "gauge", "histogram")
    for kind in kinds:
        entries: tuple[_Entry, ...] = getattr(section, kind, None) or ()
        for index, entry in enumerate(entries):
            yield kind, index, entry


def _wrong(place: Path, text: str) -> ConfigError:
    return ConfigError(f"Invalid metrics configuration {place}: {text}")
