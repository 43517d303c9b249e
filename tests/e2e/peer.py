"""What the tests share that run TorchServe 0.12 beside Flambeau."""

import os
from pathlib import Path

import httpx
import pytest

from flambeau.testing.waiting import wait_until

VENV = Path(os.environ.get("FLAMBEAU_TORCHSERVE_VENV") or "/nonexistent")

NEEDS_TORCHSERVE = [
    pytest.mark.peer,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (VENV / "bin" / "torchserve").exists(),
        reason="FLAMBEAU_TORCHSERVE_VENV names no environment with TorchServe (scripts/peer)",
    ),
]


def answer_of(url: str, name: str, seconds: float) -> httpx.Response:
    """The first answer that is none of a server or model that is still starting."""
    answers: list[httpx.Response] = []

    def answered() -> bool:
        try:
            answers.append(
                httpx.post(
                    f"{url}/predictions/{name}",
                    content="carry on",
                    headers={"content-type": "text/plain"},
                    timeout=30,
                )
            )
        except httpx.TransportError:
            return False
        return answers[-1].is_success

    wait_until(answered, seconds)
    return answers[-1]
