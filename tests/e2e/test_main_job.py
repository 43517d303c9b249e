"""The main job over HTTP: every task, both save modes, both output shapes, alone and in batches."""

import asyncio
import json
import math
import os
import signal

import httpx
import numpy as np
import pytest

from flambeau.testing.server import RunningServer
from tests.e2e.conftest import LABELS, Models

TEXTS = [
    "the movie was great",
    "Ada Lovelace lived in London.",
    "a",
    "Jim Henson was a nice puppet and the torch carries light on and on in Paris",
    "what a terrible question",
    "the light of the torch was great " * 12,
]
QUESTIONS = [
    ("Who was Jim Henson?", "Jim Henson was a nice puppet in London"),
    ("where", "Ada Lovelace lived in London and Jim Henson lived in Paris, with a puppet."),
    ("what is light", "the torch carries light"),
]
PLAIN = {"content-type": "text/plain"}
LEGACY = {"content-type": "text/plain", "x-flambeau-output": "legacy"}
MODES = ["", "-traced"]


def post(server: RunningServer, model: str, body: str, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{server.inference}/predictions/{model}",
        content=body,
        headers=PLAIN | headers,
        timeout=60,
    )


async def post_together(
    server: RunningServer, model: str, bodies: list[str]
) -> list[httpx.Response]:
    """Send all at once, so that they meet in the queue and share batches."""
    url = f"{server.inference}/predictions/{model}"
    async with httpx.AsyncClient(timeout=60) as client:
        calls = (client.post(url, content=body, headers=PLAIN) for body in bodies)
        return list(await asyncio.gather(*calls))


def softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(value - max(logits)) for value in logits]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("mode", MODES)
def test_classification_scores_equal_a_plain_forward(
    served: RunningServer, models: Models, mode: str
) -> None:
    """Within 1e-5, for a text alone and for texts of all lengths that share batches."""
    for text, answer in zip(
        TEXTS, asyncio.run(post_together(served, f"text-classification{mode}", TEXTS)), strict=True
    ):
        expected = softmax(models.reference("text-classification", text).logits[0].tolist())
        alone = post(served, f"text-classification{mode}", text)
        for answered in (answer, alone):
            scores = {entry["label"]: entry["score"] for entry in answered.json()}
            assert [scores[label] for label in LABELS["text-classification"]] == pytest.approx(
                expected, abs=1e-5
            )


@pytest.mark.parametrize("mode", MODES)
def test_token_labels_equal_a_plain_forward(
    served: RunningServer, models: Models, mode: str
) -> None:
    """The legacy pairs carry, token by token, the label of a plain forward's largest logit."""
    for text in TEXTS[:5]:
        logits = models.reference("token-classification", text).logits[0]
        expected = [LABELS["token-classification"][index] for index in logits.argmax(-1).tolist()]
        pairs = httpx.post(
            f"{served.inference}/predictions/token-classification{mode}",
            content=text,
            headers=LEGACY,
            timeout=60,
        ).json()
        assert [label for _token, label in pairs] == expected
        assert pairs[0][0] == "[CLS]"
        assert pairs[-1][0] == "[SEP]"


@pytest.mark.parametrize("mode", MODES)
def test_entities_carry_character_offsets(served: RunningServer, mode: str) -> None:
    """The full shape's word is the text's own slice."""
    for text in TEXTS[:5]:
        for entity in post(served, f"token-classification{mode}", text).json():
            assert text[entity["start"] : entity["end"]] == entity["word"]
            assert 0 <= entity["score"] <= 1


@pytest.mark.parametrize("mode", MODES)
def test_answers_are_spans_of_the_context_with_a_plain_forward_s_score(
    served: RunningServer, models: Models, mode: str
) -> None:
    """Score is p(start) * p(end) over the context's tokens, alone and in a batch."""
    bodies = [json.dumps({"question": q, "context": c}) for q, c in QUESTIONS]
    together = asyncio.run(post_together(served, f"question-answering{mode}", bodies))
    for (question, context), answer in zip(QUESTIONS, together, strict=True):
        document = answer.json()
        assert context[document["start"] : document["end"]] == document["answer"]
        assert document["score"] == pytest.approx(best_span(models, question, context), abs=1e-5)


def best_span(models: Models, question: str, context: str) -> float:
    """The best span's score, from a plain forward and a search over all pairs."""
    import transformers

    outputs = models.reference("question-answering", question, context)
    tokenizer = transformers.AutoTokenizer.from_pretrained(models.folder("question-answering"))
    inside = [part == 1 for part in tokenizer(question, context).sequence_ids()]
    parts = []
    for logits in (outputs.start_logits[0].numpy(), outputs.end_logits[0].numpy()):
        powers = np.where(inside, np.exp(logits - logits.max()), 0)
        parts.append(powers / powers.sum())
    return float(np.triu(np.outer(parts[0], parts[1])).max())


@pytest.mark.parametrize("mode", MODES)
def test_generation_continues_the_prompt(served: RunningServer, mode: str) -> None:
    """Greedy continuations are the same alone and together, and the counts are told."""
    prompts = ["the torch", "Ada Lovelace lived in", "a"]
    bodies = [
        json.dumps({"inputs": text, "parameters": {"max_new_tokens": 6, "do_sample": False}})
        for text in prompts
    ]
    together = asyncio.run(post_together(served, f"text-generation{mode}", bodies))
    for prompt, body, answer in zip(prompts, bodies, together, strict=True):
        document = answer.json()
        (sequence,) = document
        assert sequence["generated_text"].startswith(prompt)
        assert int(answer.headers["x-flambeau-tokens"]) > 0
        assert document == post(served, f"text-generation{mode}", body).json()


def test_legacy_shapes_are_what_torchserve_clients_get(served: RunningServer) -> None:
    """The label as plain text, the list of pairs, the answer text."""
    label = httpx.post(
        f"{served.inference}/predictions/text-classification", content=TEXTS[0], headers=LEGACY
    )
    assert label.text in LABELS["text-classification"]
    question = json.dumps({"question": QUESTIONS[0][0], "context": QUESTIONS[0][1]})
    answer = httpx.post(
        f"{served.inference}/predictions/question-answering", content=question, headers=LEGACY
    )
    assert answer.text in QUESTIONS[0][1]


def test_a_cut_text_is_told_in_a_header(served: RunningServer) -> None:
    """Tokens that the model read, and whether the text was longer."""
    short = post(served, "text-classification", "the movie was great")
    assert short.headers["x-flambeau-truncated"] == "false"
    assert 0 < int(short.headers["x-flambeau-tokens"]) < 128
    long = post(served, "text-classification", "the movie was great " * 500)
    assert long.headers["x-flambeau-truncated"] == "true"
    assert int(long.headers["x-flambeau-tokens"]) <= 128


def test_old_clients_send_python_literals(served: RunningServer) -> None:
    """Single quotes and tuples, as the old example's clients sent them."""
    body = "{'question': 'who', 'context': 'Ada Lovelace lived in London', 'target': (0, 1)}"
    assert post(served, "question-answering", body).json()["answer"]
    target = "{'text': 'the movie was great', 'target': 1}"
    assert (
        post(served, "text-classification", target).json()
        == post(served, "text-classification", "the movie was great").json()
    )


def test_a_bad_item_never_harms_its_neighbours(served: RunningServer) -> None:
    """One text of a batch that is no input for the task gets a 400; the others their answers."""
    good = json.dumps({"question": "who", "context": "Ada Lovelace lived in London"})
    answers = asyncio.run(
        post_together(served, "question-answering", [good, "no question", good, "[]", good])
    )
    assert [answer.status_code for answer in answers] == [200, 400, 200, 400, 200]
    assert "question" in answers[1].json()["message"]


def test_a_killed_worker_s_requests_are_answered(served: RunningServer) -> None:
    """SIGKILL while it generates: the request is tried again on the replacement."""

    async def run() -> httpx.Response:
        body = json.dumps({"inputs": "the", "parameters": {"max_new_tokens": 120}})
        async with httpx.AsyncClient(timeout=60) as client:
            url = f"{served.inference}/predictions/text-generation"
            asking = asyncio.ensure_future(client.post(url, content=body, headers=PLAIN))
            management = f"{served.management}/models/text-generation"
            before = 0
            while not before:
                before = (await client.get(management)).json()[0]["workers"][0]["pid"]
                slot = served.server.core.registry.get("text-generation").pool.slots[0]
                before = before if slot.state == "busy" else 0
            os.kill(before, signal.SIGKILL)
            answer = await asking
            after = (await client.get(management)).json()[0]["workers"][0]
            assert after["pid"] != before
            assert after["status"] == "READY"
            return answer

    assert asyncio.run(run()).status_code == 200
