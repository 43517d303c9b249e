"""Single requests beside bulk work, through a real server and a real worker."""

import asyncio
import json

import httpx

from flambeau.testing.server import RunningServer

LONG = "the light of the torch was great " * 12


async def test_a_single_request_is_answered_before_the_lists_that_came_first(
    served: RunningServer,
) -> None:
    """Lists of many texts yield: nobody waits behind them for all that they cost."""
    url = f"{served.inference}/predictions/text-classification"
    lists = [json.dumps([f"{LONG} {number} {each}" for each in range(60)]) for number in range(12)]
    done: list[str] = []
    first_done = asyncio.Event()

    async with httpx.AsyncClient(timeout=120) as client:

        async def ask(name: str, body: str) -> None:
            answer = await client.post(url, content=body, headers={"content-type": "text/plain"})
            assert answer.is_success, answer.text
            done.append(name)
            first_done.set()

        async with asyncio.TaskGroup() as group:
            for number, body in enumerate(lists):
                group.create_task(ask(f"list{number}", body))
            await first_done.wait()  # the lists are accepted, and some still wait
            group.create_task(ask("single", "good"))
    assert done.index("single") < len(lists) - 1, done
