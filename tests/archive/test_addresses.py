"""Which addresses archives may be fetched from (contract.md section 11.3)."""

import pytest

from flambeau.archive.addresses import (
    file_name,
    is_address,
    is_public,
    may_reach,
    parse_url,
    spells_out,
)
from flambeau.errors import ArchiveError, ErrorKind

ALLOWED = (r"https://models\.example/.*", "file:///srv/models/.*", "http://10.0.0.7:9000/.*")


@pytest.mark.parametrize(
    "url",
    [
        "https://models.example/a.mar",
        "HTTPS://Models.Example/a.mar?X-Amz-Signature=1",
        "file:///srv/models/a.mar",
        "http://10.0.0.7:9000/a.mar",
    ],
)
def test_allowed(url: str) -> None:
    """A pattern has to match the whole address, in any case of letters."""
    assert is_address(url)
    assert parse_url(url, ALLOWED).path.endswith("/a.mar")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://models.example.evil.example/a.mar", "does not match any allowed URL(s)"),
        ("xhttps://models.example/a.mar", "xhttps:// is not supported"),
        ("https://evil.example/?https://models.example/a.mar", "does not match any allowed"),
        ("https://user@models.example/a.mar", "does not match any allowed URL(s)"),
        ("http://10.0.0.7:90/a.mar", "does not match any allowed URL(s)"),
        ("file:///etc/passwd", "does not match any allowed URL(s)"),
        ("file://host/srv/models/a.mar", "does not match any allowed URL(s)"),
        ("file:/srv/models/a.mar", "does not match any allowed URL(s)"),
        ("file:///srv/models/../../etc/a.mar", "Relative path is not allowed in url"),
        ("file:///srv/models/%2e%2E/a.mar", "Relative path is not allowed in url"),
        ("https://models.example/a\nb.mar", "Model not found at"),
        ("https://models.example\\@evil.example/a.mar", "Model not found at"),
        ("ftp://models.example/a.mar", "ftp:// is not supported"),
        ("s3://models.example/a.mar", "s3:// is not supported"),
        ("https://models.example/" + "a" * 5000, "Model not found at"),
    ],
)
def test_refused(url: str, message: str) -> None:
    """Each is a model that is not found; a clear text for schemes that nobody speaks."""
    with pytest.raises(ArchiveError) as caught:
        parse_url(url, ALLOWED)
    assert message in caught.value.message
    assert caught.value.kind is ErrorKind.MODEL_NOT_FOUND


@pytest.mark.parametrize("url", ["https://user@h/a.mar", "https://h:99999/a.mar", "http:///a.mar"])
def test_addresses_that_mislead_are_refused_by_any_pattern(url: str) -> None:
    """A pattern's author did not think of `http://allowed@other/`."""
    with pytest.raises(ArchiveError, match="does not match any allowed"):
        parse_url(url, (".*",))


def test_nothing_is_allowed_by_default() -> None:
    """TorchServe's default let every address in (CVE-2023-43654)."""
    with pytest.raises(ArchiveError, match="does not match any allowed"):
        parse_url("https://models.example/a.mar", ())


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/a/b.mar?X-Amz-Signature=../x", "b.mar"),
        ("https://h/a/b.tar.gz#part", "b.tar.gz"),
        ("file:///p/b%20c.mar", "b%20c.mar"),
    ],
)
def test_the_name_in_the_store(url: str, name: str) -> None:
    """The path's last part, without the query."""
    assert file_name(url) == name


@pytest.mark.parametrize("url", ["https://h/", "https://h", "https://h/.hidden", "https://h/a/?b"])
def test_addresses_without_a_name(url: str) -> None:
    """Hidden files are the store's own."""
    with pytest.raises(ArchiveError, match="Model not found at"):
        file_name(url)


@pytest.mark.parametrize(
    ("pattern", "host", "expected"),
    [
        ("http://127.0.0.1:80/.*", "127.0.0.1", True),
        (r"http://127\.0\.0\.1.*", "127.0.0.1", True),
        (r"https?://minio(:\d+)?/.*", "minio", True),
        (r"http(s)?://\[::1\]/.*", "::1", True),
        ("http://a/.*|http://10.0.0.1/.*", "10.0.0.1", True),
        ("http://LOCALHOST/.*", "localhost", True),
        ("http://.*", "127.0.0.1", False),
        ("https?://.*|file://.*", "127.0.0.1", False),
        (r"http://127\.0\.0\.\d+/.*", "127.0.0.1", False),
        ("http://127.0.0.11/.*", "127.0.0.1", False),
        ("http://minio.example/.*", "minio", False),
        ("http://minio-2/.*", "minio", False),
    ],
)
def test_a_private_host_must_be_spelt_out(pattern: str, host: str, expected: bool) -> None:
    """By its number or its name, as it stands in the address."""
    assert spells_out((pattern,), host) is expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::127.0.0.1", False),
        ("::", False),
        ("64:ff9b:1::808:808", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
    ],
)
def test_private_addresses(address: str, expected: bool) -> None:
    """Private, local and reserved ones, in every disguise of IPv6."""
    assert is_public(address) is expected


@pytest.mark.parametrize(
    ("address", "host", "named", "expected"),
    [
        ("93.184.216.34", "models.example", False, True),
        ("10.0.0.7", "minio", True, True),
        ("10.0.0.7", "minio", False, False),
        ("127.0.0.1", "127.0.0.1", True, True),
        ("127.0.0.1", "localhost", True, True),
        ("127.0.0.1", "models.example", True, False),
        ("127.0.0.1", "notlocalhost", True, False),
        ("169.254.169.254", "models.example", True, False),
        ("169.254.169.254", "169.254.169.254", True, True),
        ("::1", "models.example", True, False),
        ("::ffff:127.0.0.1", "models.example", True, False),
        ("::ffff:169.254.169.254", "models.example", True, False),
        ("0.0.0.0", "models.example", True, False),
    ],
)
def test_what_a_name_may_lead_to(address: str, host: str, named: bool, expected: bool) -> None:
    """A name that the operator trusts is still its zone's to turn against this machine."""
    assert may_reach(address, host, named=named) is expected
