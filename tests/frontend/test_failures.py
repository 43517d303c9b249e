"""How wrong keys are counted: by address, within a minute, in bounded memory."""

from flambeau.frontend.failures import MAX_ADDRESSES, Failures


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_minute_s_failures_are_counted_for_each_address() -> None:
    """The wait is what is left of the minute."""
    clock = Clock()
    failures = Failures(2, clock)
    assert [failures.add("192.0.2.1") for _ in range(3)] == [None, None, 60]
    assert failures.add("192.0.2.2") is None
    clock.now = 59
    assert failures.add("192.0.2.1") == 1
    clock.now = 60
    assert failures.add("192.0.2.1") is None


def test_a_site_with_ipv6_is_one_address() -> None:
    """Its machines have 2**64 each; an IPv4 address in IPv6 is itself."""
    failures = Failures(1)
    assert failures.add("2001:db8::1") is None
    assert failures.add("2001:db8::2%eth0") is not None
    assert failures.add("2001:db8:0:1::2") is None
    assert failures.add("::ffff:192.0.2.1") is None
    assert failures.add("192.0.2.1") is not None


def test_memory_is_bounded() -> None:
    """The address that failed the longest ago is forgotten (promises.md R13)."""
    failures = Failures(1)
    for number in range(MAX_ADDRESSES + 1):
        assert failures.add(f"address {number}") is None
    assert failures.add("address 1") is not None
    assert failures.add("address 0") is None


def test_no_limit() -> None:
    """0 turns it off."""
    assert not any(Failures(0).add("192.0.2.1") for _ in range(1000))
