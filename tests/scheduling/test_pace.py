"""`Retry-After`: computed from what waits and from how fast the model answers."""

import pytest

from flambeau.scheduling.pace import Pace


def busy(rate: float, seconds: float) -> Pace:
    """A model that has answered at this rate until now, while requests waited."""
    pace = Pace()
    pace.answered(1, 0.0, waiting=True)
    for number in range(1, round(rate * seconds) + 1):
        pace.answered(1, number / rate, waiting=True)
    return pace


@pytest.mark.parametrize(
    ("rate", "waiting", "expected"),
    [(100, 99, 1), (10, 99, 10), (10, 101, 11), (2, 99, 50), (1, 1000, 60), (1000, 1, 1)],
)
def test_it_is_the_time_in_which_what_waits_is_answered(
    rate: float, waiting: int, expected: int
) -> None:
    """Whole seconds, rounded up, from 1 to 60."""
    assert busy(rate, 30).retry_after(waiting, 30.0) == expected


def test_nothing_is_known_at_first() -> None:
    """A model that has answered nothing yet: soon."""
    assert Pace().retry_after(100, 5.0) == 1


def test_idle_time_is_not_slowness() -> None:
    """Only the time in which something waited counts."""
    pace = Pace()
    pace.answered(1, 0.0, waiting=True)
    pace.answered(10, 1.0, waiting=False)
    pace.answered(1, 1000.0, waiting=True)
    assert pace.retry_after(99, 1000.0) == 10


def test_a_model_that_becomes_slower_is_noticed() -> None:
    """The last seconds weigh most, and so does a silence that lasts."""
    pace = busy(100, 10)
    for second in range(11, 61):
        pace.answered(1, float(second), waiting=True)
    assert 30 <= pace.retry_after(100, 60.0) <= 60
    quick = busy(100, 10)
    assert quick.retry_after(99, 10.0) == 1
    assert quick.retry_after(99, 40.0) > 3


def test_whoever_leaves_the_queue_leaves_no_slowness_behind() -> None:
    """The last one that waited may hang up: what follows is idle time, however long."""
    pace = busy(100, 10)
    pace.idle()
    pace.answered(1, 3600.0, waiting=True)
    pace.answered(100, 3601.0, waiting=True)
    assert pace.retry_after(90, 3601.0) == 1
