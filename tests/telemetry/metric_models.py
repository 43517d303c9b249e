"""Handlers that report metrics, and readers of what arrives."""

import re

import httpx
from prometheus_client.parser import text_string_to_metric_families

from flambeau.testing.server import RunningServer

REPORTER = """
import os, time
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes
from ts.metrics.metrics_store import MetricsStore
from ts.service import emit_metrics

class Reporter:
    def initialize(self, context):
        context.metrics.add_counter("InitCount", 2, idx=0)
        context.metrics.add_time("InitTime", 3.5, None, "s")

    def handle(self, data, context):
        metrics = context.metrics
        do = context.get_request_header(0, "x-do") or ""
        if do == "all":
            metrics.add_counter("Rows", len(data), 0)
            metrics.add_size("Size", 7, None, "kB")
            metrics.add_percent("Share", 12.5)
            metrics.add_error("Oops", 1)
            metrics.add_metric("Spread", 0.3, "s", dimensions=[Dimension("Lang", "fr")],
                               metric_type=MetricTypes.HISTOGRAM)
            metrics.add_metric("Own", 3, "widgets", 0, [Dimension("Lang", 'a"b')], MetricTypes.GAUGE)
        if do == "declared":
            metrics.get_metric("Words").add_or_update(4, ["Ulm"], "my-id")
            metrics.add_metric("Ordered", 1, "count", dimensions=[Dimension("Lang", "fr")])
            metrics.add_counter("AsGauge", 5)
            metrics.add_counter("AsGauge", 6)
        if do == "mismatch":
            metrics.add_counter("Words", 1)
            metrics.get_metric("Words").update(1, "id", [Dimension("A", 1), Dimension("B", 2)])
        if do == "many":
            for number in range(int(context.get_request_header(0, "x-count"))):
                metrics.add_counter("Many", 1, dimensions=[Dimension("Number", number)])
        if do == "bad":
            metrics.add_counter("Requests2XX", 1000)
            metrics.add_counter("flambeau_queue_length", 1000)
            metrics.add_counter("Long" * 100, 1)
            metrics.add_counter("not a name", 1)
            metrics.add_counter("Negative", -1)
            metrics.add_percent("NoNumber", "abc")
            metrics.add_percent("NotFinite", float("nan"))
        if do == "print":
            print("[METRICS]Printed.count:5|#Level:Model|#type:COUNTER|#hostname:h,1,a")
        if do == "stream":
            metrics.add_counter("Early", 1)
            send_intermediate_predict_response(["part"], context.request_ids, "", 200, context)
            while not os.path.exists(context.get_request_header(0, "x-file")):
                time.sleep(0.005)
            metrics.add_counter("Late", 1)
        if do == "fail":
            metrics.add_counter("BeforeFailure", 1)
            raise ValueError("on purpose")
        if do == "brief":
            metrics.add_counter("OnlyBrief", 1)
        if do == "store":
            store = MetricsStore(context.request_ids, "reporter")
            store.add_counter("Stored", 3, 0)
            store.add_time("StoredTime", 2.5)
            emit_metrics(store.store)
        return ["ok"] * len(data)
"""


def families(server: RunningServer, query: str = "") -> dict[str, dict[tuple[str, ...], float]]:
    """Samples by name and by labels as `name=value`, sorted, without the host's.

    Read with Prometheus' own parser, which calls every counter `…_total`.
    """
    text = httpx.get(f"{server.metrics}/metrics{query}").text
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = (f"{k}={v}" for k, v in sample.labels.items() if k.lower() != "hostname")
            found.setdefault(sample.name, {})[tuple(sorted(labels))] = sample.value
    return found


LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} - (\w+)\.(\w+):-?\d+\.\d+(?:E-?\d+|e-\d+)?"
    r"\|#([^|]*)\|#hostname:[^,|]+(,requestID:[0-9a-z,-]+)?,timestamp:\d{10}"
)
"""A metric line of TorchServe's."""


def shape(line: str) -> tuple[str, str, tuple[str, ...], bool]:
    """A metric line's name, unit, dimensions' names, and whether it names requests."""
    match = LINE.fullmatch(line)
    assert match, line
    name, unit, dimensions, requests = match.groups()
    return name, unit, tuple(one.split(":")[0] for one in dimensions.split(",")), bool(requests)
