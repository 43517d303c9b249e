"""Inputs that end workers: who is blamed, what is refused for how long, and what a client hears."""

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from flambeau.scheduling.quarantine import MAX_INPUTS, REFUSED_SECONDS, Quarantine
from flambeau.testing.echo import Gate, predict, register, worker_pids, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until
from flambeau.types import Field, InferenceRequest
from tests.scheduling.crowd import Crowd, client


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def request(body: str, **headers: str) -> InferenceRequest:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return InferenceRequest("an id", named, [Field("body", "text/plain", body.encode())])


def ends_two_workers(quarantine: Quarantine, one: InferenceRequest) -> None:
    assert not quarantine.blame(one, death=object(), alone=False)
    assert quarantine.blame(one, death=object(), alone=True)


def test_an_input_is_refused_for_a_minute_after_its_second_death() -> None:
    """Then it is as any other, and what others sent was never touched."""
    clock = Clock()
    quarantine = Quarantine(clock)
    ends_two_workers(quarantine, request("poison"))
    assert quarantine.seconds_left(request("poison")) == REFUSED_SECONDS
    assert quarantine.seconds_left(request("good")) == 0
    clock.now += REFUSED_SECONDS - 1
    assert quarantine.seconds_left(request("poison")) == 1
    clock.now += 1
    assert quarantine.seconds_left(request("poison")) == 0
    assert not quarantine, "nothing is kept of it"
    assert not quarantine.blame(request("poison"), death=object(), alone=True)


def test_one_end_of_a_worker_counts_once() -> None:
    """However many requests with the same input were lost by it."""
    quarantine = Quarantine()
    for _ in range(5):
        assert not quarantine.blame(request("poison"), death=("W", 1), alone=False)
    assert quarantine.seconds_left(request("poison")) == 0
    assert quarantine.blame(request("poison"), death=("W", 2), alone=True)


def test_company_alone_convicts_nobody() -> None:
    """Who was never alone with a dying worker may have died of its neighbours each time."""
    quarantine = Quarantine()
    for _ in range(5):
        assert not quarantine.blame(request("popular"), death=object(), alone=False)
    assert quarantine.seconds_left(request("popular")) == 0


def test_an_answer_clears_an_input() -> None:
    """Two deaths with an answer in between are chance, or somebody's SIGKILL."""
    quarantine = Quarantine()
    assert not quarantine.blame(request("unlucky"), death=object(), alone=True)
    quarantine.clear(request("unlucky"))
    assert not quarantine
    assert not quarantine.blame(request("unlucky"), death=object(), alone=True)


def test_the_same_input_is_known_however_it_comes() -> None:
    """Through another proxy, with another id or form boundary; but not with another meaning."""
    quarantine = Quarantine()
    form = "multipart/form-data; boundary="
    ends_two_workers(
        quarantine, request("poison", Content_Type=f"{form}a1", X_Request_Id="1", X_Mode="fast")
    )
    for headers in (
        {"content_type": f"{form}b2", "x_request_id": "2", "x_mode": "fast"},
        {"CONTENT_TYPE": form, "X_MODE": "fast", "x_forwarded_for": "10.0.0.9", "User_Agent": "x"},
    ):
        assert quarantine.seconds_left(request("poison", **headers)) > 0
    assert quarantine.seconds_left(request("poison", Content_Type=form, x_mode="slow")) == 0
    assert quarantine.seconds_left(request("poison", x_mode="fast")) == 0


def test_what_is_remembered_has_a_bound_and_no_text() -> None:
    """The oldest suspects go first; a digest is worth nothing in another process."""
    quarantine = Quarantine()
    ends_two_workers(quarantine, request("the first"))
    for number in range(MAX_INPUTS):
        quarantine.blame(request(f"input {number}"), death=number, alone=False)
    assert len(quarantine._suspects) == MAX_INPUTS
    assert quarantine.seconds_left(request("the first")) == 0
    assert all(len(digest) == 16 for digest in quarantine._suspects)
    assert quarantine._digest(request("a")) != Quarantine()._digest(request("a"))


# A file says how many processes have met the poison.
POISONED = """
import os

def handle(data, context):
    if data is None:
        return None
    bodies = [bytes(row.get("body") or b"").decode() for row in data]
    if "hold" in bodies:
        open("held", "w").close()
        while not os.path.exists("let-go"):
            pass
    if "poison" in bodies:
        with open("deaths", "a") as file:
            file.write(f"{len(bodies)} ")
        os._exit(9)
    if "spoil" in bodies:
        raise RuntimeError("CUDA error: device-side assert triggered")
    return [f"fine: {body}" for body in bodies]
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Three models that end with their workers: `batch` in batches of 8, `single`, `hasty`."""
    write_model(store, "batch", POISONED, batchSize=8)
    write_model(store, "single", POISONED)
    write_model(store, "hasty", responseTimeout=1)
    with running_server(store, tmp_path_factory.mktemp("cache")) as running:
        for name in ("batch", "single", "hasty"):
            assert register(running, name).status_code == 200
        yield running


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def deaths(store: Path, name: str) -> list[int]:
    """The size of each batch under which a worker has ended itself."""
    file = store / name / "deaths"
    return [int(size) for size in file.read_text().split()] if file.exists() else []


async def test_only_the_guilty_of_a_batch_is_refused_afterwards(
    server: RunningServer, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker ends under a batch of five, of which two are the same poison.

    The innocent are answered; one poisonous request ends a second worker, alone, and is told so; the
    other one, and whoever sends it again, is refused with the time to wait, and ends no third.
    """
    bodies = ["one", "poison", "two", "poison", "three"]
    with caplog.at_level(logging.ERROR, "flambeau"):
        async with client() as http:
            crowd = Crowd(server, "batch", http)
            first = crowd.send("hold")
            await asyncio.to_thread(wait_until, (store / "batch" / "held").exists)
            asked = [crowd.send(body) for body in bodies]
            await crowd.queued(len(bodies))
            (store / "batch" / "let-go").touch()
            assert (await first).status_code == 200
            answers = [await one for one in asked]
            again = await crowd.send("poison")
            metrics = (await http.get(f"{server.metrics}/metrics")).text
    assert [answers[place].text for place in (0, 2, 4)] == ["fine: one", "fine: two", "fine: three"]
    died, other = sorted((answers[1], answers[3]), key=lambda answer: answer.json()["type"])
    assert (died.status_code, died.json()["message"]) == (503, "Worker died.")
    for refused in (again, other):
        assert refused.status_code == 503
        assert 50 < int(refused.headers["retry-after"]) <= 60
        assert refused.json()["type"] == "ServiceUnavailableException"
        assert refused.json()["message"].startswith('Model "batch" refuses this input: 2 workers')
    assert deaths(store, "batch") == [5, 1]
    told = [line for line in caplog.messages if "refused for 60 s" in line]
    assert len(told) == 1
    assert "poison" not in told[0]
    series = 'flambeau_request_failures_total{model_name="batch",model_version="1.0",kind="'
    assert f'{series}poisonous_input",}} 2.0' in metrics
    assert f'{series}worker_died",}} 1.0' in metrics


def test_what_leaves_workers_unusable_is_refused_too(server: RunningServer) -> None:
    """An error after which a GPU is lost ends its worker as an exit does, without a retry."""
    statuses = []
    for _ in range(3):
        pids = worker_pids(server, "single")
        statuses.append(predict(server, "single", "spoil").status_code)
        if statuses[-1] == 507:
            wait_until(lambda pids=pids: worker_pids(server, "single") not in (pids, []))  # type: ignore[misc]
    assert statuses == [507, 507, 503]
    assert predict(server, "single", "other").text == "fine: other"


def test_an_input_that_hangs_twice_is_refused(server: RunningServer, tmp_path: Path) -> None:
    """Each time-out ends a worker; a third one is not given to it."""
    hang = Gate(tmp_path / "hang")
    statuses = [predict(server, "hasty", **hang.headers).status_code for _ in range(3)]
    assert statuses == [504, 504, 503]
    assert hang.entered() == 2
    assert predict(server, "hasty").status_code == 200


async def test_workers_killed_from_outside_make_no_input_a_refused_one(
    server: RunningServer, tmp_path: Path
) -> None:
    """Two deaths under the same input, with an answer to it in between."""
    async with client() as http:
        crowd = Crowd(server, "hasty", http)
        for turn in ("first", "second"):
            gate = Gate(tmp_path / "gate")
            asking = crowd.send(**gate.headers)
            await asyncio.to_thread(gate.wait_entered)
            os.kill(gate.standing()[0], signal.SIGKILL)
            gate.open()
            assert (await asking).status_code == 200, turn
            await asyncio.to_thread(empty, tmp_path)
