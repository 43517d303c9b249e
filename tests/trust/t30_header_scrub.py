"""T30: a handler that tells what it sees of its client's and its server's secrets."""

import json
import re

import httpx

from flambeau.config import environment
from flambeau.protocols import prediction
from tests.trust.servers import trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_HEADERS = {
    "Cookie": "session=canary-cookie",
    "Proxy-Authorization": "Basic canary-proxy",
    "X-Plain": "canary-plain",
}
_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "GITHUB_TOKEN", "MY_PASSWORD",
    "DB_PASSWD", "STRIPE_API_KEY", "OPENAI_APIKEY", "GOOGLE_APPLICATION_CREDENTIALS", "SENTRY_DSN",
    "DATABASE_URL", "TS_KEYSTORE_PASS", "SSH_AUTH_SOCK", "KUBECONFIG", "my_secret",
)  # fmt: skip


def run(run: Run) -> Figures:
    """Send headers to a server whose environment has secrets; count what its handler sees."""
    planted = {name: f"canary-{name}" for name in _VARIABLES}
    with trust_server(run, source=SOURCE, environment=planted) as server:
        answer = httpx.post(f"{server.inference}/predictions/stub", content=b"x", headers=_HEADERS)
        told = json.dumps(answer.json())
        alive = server.alive()
    seen = set(re.findall(r"canary-[\w-]+", told))
    plain = "canary-plain" in seen
    return {
        "planted": len(planted) + len(_HEADERS) - 1,
        "seen": len(seen - {"canary-plain"}),
        "plain": int(plain),
        "alive": int(alive),
    }


SOURCE = """
import os

def handle(data, context):
    if data is None:
        return None
    block = open("/proc/self/environ", "rb").read().decode("latin-1")
    headers = [dict(context.get_all_request_header(i)) for i in range(len(data))]
    return [{"headers": each, "variables": dict(os.environ), "block": block} for each in headers]
"""


def _pass_env() -> None:
    """Hand the server's whole environment on."""
    environment._SECRET = re.compile("(?!)")


def _pass_headers() -> None:
    """Hand all headers on."""
    prediction._UNHEARD = frozenset()


SUITE = Suite(
    name="t30",
    title="header_scrub",
    promises=("G25",),
    limits=(
        Limit("planted", low=15),
        Limit("seen", exactly=0),
        Limit("plain", exactly=1),
        Limit("alive", exactly=1),
    ),
    controls={"pass-env": _pass_env, "pass-headers": _pass_headers},
    run=run,
)
