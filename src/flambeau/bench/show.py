"""Outcomes as tables for a terminal, and as a plot."""

from collections.abc import Sequence

from rich.table import Table

from flambeau.bench.outcome import QUANTILES, Outcome
from flambeau.bench.svg import line_chart

_LATE_MS = 1.0
_BUSY = 0.7


def single_table(outcome: Outcome) -> Table:
    """One load: a line for each figure."""
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    sent = f"{outcome.requests:,} in {outcome.seconds:.1f} s"
    rows = [("load", load_name(outcome)), ("requests", sent)]
    rows.append(("throughput", f"{outcome.throughput:,.1f} /s"))
    rows += [(f"latency {name}", _ms(outcome, name)) for name in ("mean", *QUANTILES)]
    rows += [(f"errors: {kind}", f"{count:,}") for kind, count in outcome.errors.items()]
    rows.append(("bytes sent, received", f"{outcome.bytes_sent:,}, {outcome.bytes_received:,}"))
    if outcome.server_cpu_ms is not None and outcome.per_cpu_second is not None:
        rows.append(("server CPU a request", f"{outcome.server_cpu_ms:.2f} ms"))
        rows.append(("requests per server CPU second", f"{outcome.per_cpu_second:,.1f}"))
    rows.append(("this client's CPU a request", _client_cpu(outcome)))
    for row in rows:
        table.add_row(*row)
    return table


def steps_table(outcomes: Sequence[Outcome], names: Sequence[str]) -> Table:
    """Several loads: a row for each."""
    table = Table(box=None)
    table.add_column("load")
    cpu = any(each.server_cpu_ms is not None for each in outcomes)
    columns = ["requests/s", "p50 ms", "p90 ms", "p99 ms", "max ms", "errors"]
    for column in [*columns, *(["CPU ms a request"] if cpu else [])]:
        table.add_column(column, justify="right")
    for name, each in zip(names, outcomes, strict=True):
        latencies = [_number(each.latency_ms.get(key)) for key in ("p50", "p90", "p99", "max")]
        cells = [name, f"{each.throughput:,.1f}", *latencies, f"{sum(each.errors.values()):,}"]
        table.add_row(*cells, *([_number(each.server_cpu_ms)] if cpu else []))
    return table


def load_name(outcome: Outcome) -> str:
    """`8 clients`, or `20 requests/s due`."""
    load = outcome.load
    if load["loop"] == "closed":
        return f"{load['clients']:g} client" + ("s" if load["clients"] != 1 else "")
    return f"{load['rate']:g} requests/s due ({load['arrivals']})"


def remarks(outcomes: Sequence[Outcome]) -> list[str]:
    """What a reader of the figures must know."""
    found = []
    if any(each.load["loop"] == "closed" for each in outcomes):
        found.append(
            "Closed loop: a client sends nothing while it waits, so latencies leave out what others"
            " would have waited meanwhile (coordinated omission). --rate counts that."
        )
    if any(each.load["loop"] == "open" for each in outcomes):
        found.append("Open loop: latency counts from the moment a request was due.")
    late = max((each.sent_late_ms.get("p99", 0.0) for each in outcomes), default=0.0)
    if late > _LATE_MS:
        found.append(
            f"Requests left up to {late:.1f} ms (p99) after they were due: connections or this"
            " client's CPU were short. That time is in the latencies."
        )
    busy = max(
        (each.whole.client_cpu_seconds / each.whole.seconds for each in outcomes), default=0.0
    )
    if busy > _BUSY:
        found.append(f"This client used {busy:.0%} of a core: it may be the limit, not the server.")
    if any(each.errors for each in outcomes):
        found.append("Latencies and throughput are those of successes; errors are counted apart.")
    return found


def plot(outcomes: Sequence[Outcome], title: str, across: Sequence[float], of: str) -> str:
    """An SVG: the latencies of one load by percentile, of several over what changed (`across`)."""
    if len(outcomes) == 1:
        series = {load_name(outcomes[0]): outcomes[0].curve}
        return line_chart(title, series, x="per cent of the requests", y="latency, ms")
    lines = {
        name: [
            (at, each.latency_ms[name])
            for at, each in zip(across, outcomes, strict=False)
            if each.succeeded
        ]
        for name in ("p50", "p90", "p99")
    }
    return line_chart(title, lines, x=of, y="latency, ms", log_y=True)


def _client_cpu(outcome: Outcome) -> str:
    if outcome.client_cpu_ms is None:
        return "-"
    share = outcome.whole.client_cpu_seconds / outcome.whole.seconds
    return f"{outcome.client_cpu_ms * 1000:,.0f} µs ({share:.0%} of a core)"


def _ms(outcome: Outcome, name: str) -> str:
    found = outcome.latency_ms.get(name)
    return "-" if found is None else f"{found:,.2f} ms"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"
