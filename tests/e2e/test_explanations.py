"""Explanations beside predictions, through a real server and a real worker."""

import asyncio
import json

import httpx

from flambeau.testing.server import RunningServer

LONG = "the light of the torch was great " * 12


async def test_predictions_are_answered_while_explanations_run(served: RunningServer) -> None:
    """Explanations of hundreds of passes yield: nobody waits behind them for all that they cost."""
    done: list[str] = []
    first_done = asyncio.Event()
    async with httpx.AsyncClient(base_url=served.inference, timeout=120) as client:

        async def ask(name: str, kind: str, body: object) -> None:
            answer = await client.post(f"/{kind}/text-classification", json=body)
            assert answer.is_success, answer.text
            done.append(name)
            first_done.set()

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                body = {"inputs": f"{number} {LONG}", "parameters": {"n_steps": 100}}
                group.create_task(ask(f"explanation{number}", "explanations", body))
            await first_done.wait()  # all are accepted, and some still wait
            group.create_task(ask("single", "predictions", "good"))
    assert done.index("single") < len(done) / 2, done


async def test_every_route_explains(served: RunningServer) -> None:
    """TorchServe's and KServe's, in TorchServe's shape where it is asked for."""
    body = json.dumps({"text": "the movie was great", "target": "NEUTRAL"})
    async with httpx.AsyncClient(base_url=served.inference, timeout=120) as client:
        answers = [
            await client.post(path, content=body, headers={"X-Flambeau-Output": "legacy"})
            for path in (
                "/explanations/text-classification",
                "/explanations/text-classification/1.0",
                "/v1/models/text-classification:explain",
                "/v2/models/text-classification/explain",
            )
        ]
        traced = await client.post(
            "/explanations/token-classification-traced",
            json={"text": "Ada lived", "target": "Ada"},
        )
    for answer in answers:
        assert answer.is_success, answer.text
        assert answer.json() == answers[0].json()
        assert answer.headers["x-flambeau-explanation"] == "integrated_gradients"
    assert answers[0].json().keys() == {"words", "importances", "delta"}
    assert traced.json()["method"] == "occlusion"
    assert traced.headers["x-flambeau-explanation"].startswith("occlusion; ")
