"""An archive's signature comes along with it (promises.md G27, G32)."""

from pathlib import Path

import httpx

from flambeau.archive.keys import read_signing_key
from flambeau.archive.signing import sign
from flambeau.testing.server import running_server
from flambeau.testing.signing import make_key
from tests.trust.mars import write_mar


def test_a_download_is_judged_by_the_signature_beside_it(tmp_path: Path) -> None:
    """With it the archive gets its name, and so does the signature; without it neither stays."""
    key = make_key(tmp_path / "keys", "release")
    origin, store = tmp_path / "origin", tmp_path / "store"
    origin.mkdir()
    store.mkdir()
    sign(write_mar(origin / "good.mar", "good"), read_signing_key(key.private))
    write_mar(origin / "bare.mar", "bare")
    with running_server(
        store, tmp_path / "cache",
        allowed_urls=(f"file://{origin}/.*",), require_signed="require", trusted_keys=key.public,
    ) as server:  # fmt: skip
        for name, status in (("good", 200), ("bare", 403)):
            query = {"url": f"file://{origin}/{name}.mar", "initial_workers": "0"}
            answer = httpx.post(f"{server.management}/models", params=query, timeout=60)
            assert answer.status_code == status, answer.text
        assert {path.name for path in store.iterdir()} == {
            "good.mar", "good.mar.sig", ".good.mar.origin",
        }  # fmt: skip
        described = httpx.get(f"{server.management}/models/good", timeout=60).json()[0]
        assert described["archive"]["signature"] == "verified"
