"""Which parts of addresses and queries are not logged."""

import pytest

from flambeau.telemetry.masking import mask_addresses, mask_query


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text? yes", "plain text? yes"),
        ("at https://h/a.mar", "at https://h/a.mar"),
        ("Failed: https://h/a.mar?sig=a,b no", "Failed: https://h/a.mar?*** no"),
        ("'s3://u:p@h/a?x=1&y=2'", "'s3://***@h/a?***"),
        ("http://h/x@y", "http://h/x@y"),
        ("https://u:p@q@h/a", "https://***@h/a"),
        ("no https:/u:p@h/a", "no https:/***@h/a"),
        ("https://h/a#u:p@x.mar", "https://h/a#***"),
        ("not found: a#u:p@x.mar", "not found: a#***@x.mar"),
    ],
)
def test_addresses_lose_passwords_and_queries(text: str, shown: str) -> None:
    """A link's query is often what makes it work."""
    assert mask_addresses(text) == shown


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("a=1&b=%20", "a=1&b=%20"),
        ("url=store.mar&batch_size=2", "url=store.mar&batch_size=2"),
        ("url=https%3A%2F%2Fh%2Fa%3FX-Amz-Signature%3Dabc&x=1", "url=https://h/a?***&x=1"),
        ("url=https://u:p@h/a", "url=https://***@h/a"),
        ("url=https:/u:p@h/a", "url=https:/***@h/a"),
        ("url=https%253A//u:p@h", "url=https://***@h"),
        ("url=https://u:p+%20q@h", "url=https://***@h"),
        ("url=a%23u:p@x.mar", "url=a#***@x.mar"),
        ("url=https://h/a?v=1&X-Amz-Signature=abc", "url=https://h/a?***&X-Amz-Signature=***"),
        ("api_key=abc&to%6ben=def&sig=ghi", "api_key=***&to%6ben=***&sig=***"),
        ("monkey=1&design=2", "monkey=1&design=2"),
    ],
)
def test_queries_lose_what_looks_like_a_secret(query: str, shown: str) -> None:
    """By a parameter's name, or in an address that it holds; the rest stays as it was sent."""
    assert mask_query(query) == shown
