"""What a load saw: counts, percentiles, CPU."""

import math
from collections.abc import Sequence

import msgspec

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


class Whole(msgspec.Struct, frozen=True):
    """What a run cost from its first request to its last answer, warm-up and end included.

    So each request is in it as a whole, and no batch that was half done at a border. `answered`
    counts every request of that time. The server's CPU seconds are those of its process tree.
    """

    seconds: float
    answered: int
    client_cpu_seconds: float
    server_cpu_seconds: float | None = None


class Outcome(msgspec.Struct, frozen=True):
    """The figures of one load.

    `requests` were due within the `seconds` measured and were all waited for; the latencies are
    those of `succeeded` ones (status below 400), exact, from the moment a request was due.
    `throughput` counts successes that arrived within the `seconds`. `errors` counts the others by
    status or by kind. `sent_late_ms` is how long after its due time a request left this client.
    """

    load: dict[str, str | float]
    seconds: float
    requests: int
    succeeded: int
    throughput: float
    latency_ms: dict[str, float]
    errors: dict[str, int]
    bytes_sent: int
    bytes_received: int
    sent_late_ms: dict[str, float]
    whole: Whole
    interrupted: bool = False
    curve: list[tuple[float, float]] = []

    @property
    def server_cpu_ms(self) -> float | None:
        """CPU milliseconds that the server used for a request."""
        used = self.whole.server_cpu_seconds
        return (
            None if used is None or not self.whole.answered else used / self.whole.answered * 1000
        )

    @property
    def per_cpu_second(self) -> float | None:
        """Requests that the server answered in a second of CPU time."""
        used = self.whole.server_cpu_seconds
        return self.whole.answered / used if used else None

    @property
    def client_cpu_ms(self) -> float | None:
        """CPU milliseconds that this client used for a request."""
        whole = self.whole
        return whole.client_cpu_seconds / whole.answered * 1000 if whole.answered else None

    def document(self) -> dict[str, object]:
        """For JSON, with the derived figures."""
        document: dict[str, object] = msgspec.to_builtins(self)
        derived = {
            "client_cpu_ms_per_request": self.client_cpu_ms,
            "server_cpu_ms_per_request": self.server_cpu_ms,
            "requests_per_server_cpu_second": self.per_cpu_second,
        }
        return document | derived


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds at each quantile by nearest rank, and the mean; empty without samples."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    count = len(ordered)
    found = {
        name: ordered[max(1, math.ceil(share * count)) - 1] * 1000
        for name, share in QUANTILES.items()
    }
    return found | {"mean": sum(ordered) / count * 1000}


def curve(seconds: Sequence[float], points: int = 200) -> list[tuple[float, float]]:
    """(per cent of the requests, milliseconds that these took at most), for a plot."""
    ordered = sorted(seconds)
    ranks = sorted({max(1, math.ceil(len(ordered) * at / points)) for at in range(points + 1)})
    return (
        [(rank / len(ordered) * 100, ordered[rank - 1] * 1000) for rank in ranks] if ordered else []
    )
