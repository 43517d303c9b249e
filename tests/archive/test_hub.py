"""Fetching models: local folders, a hub on loopback, its cache, and every way to fail.

The hub's client reads its environment when it is imported: what talks to it runs in a process of
its own, with a fresh cache.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flambeau.archive.hub import fetch_model, format_size, needed_files, snapshot_commit
from flambeau.errors import HubError
from flambeau.testing.hub import HubServer
from flambeau.testing.models import tiny_model

FETCH = """
import json, sys
from flambeau.archive.hub import fetch_model, snapshot_commit
from flambeau.errors import HubError
answers = []
for name, revision in json.loads(sys.argv[1]):
    notes = []
    try:
        path = fetch_model(name, revision, report=notes.append)
        files = sorted(file.name for file in path.iterdir())
        answers.append({"files": files, "commit": snapshot_commit(path), "notes": notes})
    except HubError as error:
        answers.append({"error": str(error), "notes": notes})
print(json.dumps(answers))
"""
FROM_PRETRAINED = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
for name in sys.argv[1:]:
    model = AutoModelForSequenceClassification.from_pretrained(name)
    tokenizer = AutoTokenizer.from_pretrained(name)
    with torch.no_grad():
        print(json.dumps(model(**tokenizer("a nice movie", return_tensors="pt")).logits.tolist()))
"""
COMMON = {"config.json": "{}", "tokenizer.json": "{}", "vocab.txt": "a\n", "merges.txt": ""}
SAFE = COMMON | {"model.safetensors": "weights"}
UNWANTED = {
    "modeling_own.py": "",
    "tf_model.h5": "",
    "flax_model.msgpack": "",
    "pytorch_model.bin": "pickle",
    "README.md": "",
    "onnx/model.onnx": "",
    "onnx/config.json": "{}",
}

Fetch = Callable[..., list[dict[str, Any]]]


def write_folder(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def run(code: str, *arguments: str, **environment: str) -> str:
    """Run Python code with an environment of ours alone; returns its output."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = [sys.executable, "-c", code, *arguments]
    env = kept | {"NO_PROXY": "*"} | environment
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Fetching" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A hub with one model in each form of weights, a gated one, one without weights, an alias."""
    root = tmp_path_factory.mktemp("models")
    shards = {
        "model.safetensors.index.json": "{}",
        "model-00001-of-00002.safetensors": "1",
        "model-00002-of-00002.safetensors": "2",
    }
    forms = {
        "org/safe": SAFE | UNWANTED,
        "org/sharded": COMMON | shards | UNWANTED,
        "org/half": COMMON | dict(list(shards.items())[:2]),
        "org/pickle": COMMON | {"pytorch_model.bin": "pickle", "tf_model.h5": ""},
        "org/keras": COMMON | {"tf_model.h5": ""},
        "org/gated": SAFE,
    }
    models = {name: write_folder(root / name, files) for name, files in forms.items()}
    options: dict[str, Any] = {"gated": ["org/gated"], "token": "hf_right"}
    with HubServer(models, aliases={"safe-base": "org/safe"}, **options) as server:
        yield server


@pytest.fixture
def fetch(hub: HubServer, tmp_path: Path) -> Fetch:
    """`fetch("org/a", ("org/b", "v1"), HF_…="…")` asks for models one after the other."""

    def fetch_all(*wanted: str | tuple[str, str], **environment: str) -> list[dict[str, Any]]:
        pairs = [name if isinstance(name, tuple) else (name, None) for name in wanted]
        env = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")} | environment
        answers: list[dict[str, Any]] = json.loads(run(FETCH, json.dumps(pairs), **env))
        return answers

    return fetch_all


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "tf_model.h5"], ["pytorch_model.bin"]),
        (["model.safetensors.index.json", "model-00001-of-00002.safetensors", "other.safetensors"],
         ["model.safetensors.index.json", "model-00001-of-00002.safetensors"]),
        (["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"],
         ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"]),
        (["tf_model.h5", "onnx/model.onnx", "sub/model.safetensors"], []),
    ],
)  # fmt: skip
def test_the_safest_weights_are_chosen(names: list[str], weights: list[str]) -> None:
    """Safetensors before pickles, whole files before shards, nothing that cannot be read."""
    others = ["config.json", "merges.txt", "spiece.model", "tokenizer.json"]
    assert needed_files([*names, *others, "modeling.py", "README.md"]) == [*others, *weights]


def test_a_local_folder_is_used_as_it_is(tmp_path: Path) -> None:
    """A folder is its own model; it has no commit, and a revision is said to be ignored."""
    notes: list[str] = []
    assert fetch_model(str(tmp_path), "v1", report=notes.append) == tmp_path
    assert snapshot_commit(tmp_path) is None
    assert notes == [f"{tmp_path} is a local folder: revision v1 is ignored"]


@pytest.mark.parametrize(
    "name", ["./missing", "/no/such/model", "a/b/c", "a b", "org/..", "~/none"]
)
def test_what_cannot_be_an_id_never_reaches_the_hub(name: str) -> None:
    """A path that is not there, or text with odd characters, is one clear error."""
    with pytest.raises(HubError, match="no such folder, and it is not a hub id"):
        fetch_model(name)


def test_sizes_are_told_in_the_hubs_units() -> None:
    """Powers of 1000, three figures."""
    assert [format_size(size) for size in (12, 87_400_000, 1_340_000_000)] == [
        "12 B",
        "87.4 MB",
        "1.34 GB",
    ]


@pytest.mark.slow
def test_only_what_serving_needs_is_downloaded(hub: HubServer, fetch: Fetch) -> None:
    """Configuration, tokenizer and one form of weights, all of the commit that is told."""
    safe, sharded, pickle, alias, again = fetch(
        "org/safe", "org/sharded", "org/pickle", "safe-base", ("org/safe", hub.commit("org/safe"))
    )
    assert safe["files"] == sorted(SAFE)
    assert safe["commit"] == hub.commit("org/safe")
    assert safe["notes"] == [f"Downloading org/safe from {hub.endpoint}: 5 files, 13 B"]
    assert set(sharded["files"]) - set(COMMON) == {
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }
    assert set(pickle["files"]) - set(COMMON) == {"pytorch_model.bin"}
    assert alias["files"] == safe["files"]
    assert again == safe | {"notes": []}
    assert not [line for line in hub.requests if ".h5" in line or ".py" in line or "onnx" in line]


@pytest.mark.slow
def test_each_refusal_says_what_and_where(hub: HubServer, fetch: Fetch) -> None:
    """Unknown, gated, without such a revision, without usable weights: one line, no traceback."""
    names = ("org/nothing", "org/gated", ("org/safe", "v9"), "org/keras", "org/half")
    expected = [
        f"Model org/nothing: {hub.endpoint} has no such model, or it is private",
        "but gated. Ask for access",
        f"{hub.endpoint} has no revision 'v9'",
        "no weights of it in safetensors or PyTorch form (it has config.json",
        "has 1 of 2 files of its weights",
    ]
    for answers in (fetch(*names), fetch(*names, HF_TOKEN="hf_wrong")):
        for answer, text in zip(answers, expected, strict=True):
            assert text in answer["error"]
            assert "\n" not in answer["error"]
    (granted,) = fetch("org/gated", HF_TOKEN="hf_right")
    assert granted["files"] == sorted(SAFE)


@pytest.mark.slow
def test_the_cache_serves_while_the_hub_does_not(hub: HubServer, fetch: Fetch) -> None:
    """Unreachable or offline: what is cached is used, with a note; the rest is one error."""
    (online,) = fetch("org/safe")
    closed = "http://127.0.0.1:9"
    away, missing = fetch("org/safe", "org/sharded", HF_ENDPOINT=closed)
    assert away["files"] == online["files"]
    assert away["commit"] == online["commit"]
    assert away["notes"][0].startswith(f"{closed} is out of reach (")
    for part in (
        "Model org/sharded cannot be had",
        closed,
        "home/hub does not have it",
        "a folder",
    ):
        assert part in missing["error"]
    offline, missing = fetch("org/safe", "org/sharded", HF_HUB_OFFLINE="1")
    assert offline["commit"] == online["commit"]
    assert "HF_HUB_OFFLINE is set" in offline["notes"][0]
    assert "HF_HUB_OFFLINE is set" in missing["error"]


@pytest.mark.slow
def test_a_cache_with_missing_weights_is_not_used(fetch: Fetch, tmp_path: Path) -> None:
    """A download that broke off leaves an incomplete snapshot; it is not taken for a model."""
    (online,) = fetch("org/safe")
    (weights,) = (tmp_path / "home").rglob("model.safetensors")
    weights.unlink()
    (answer,) = fetch("org/safe", HF_HUB_OFFLINE="1")
    assert "has no weights of it" in answer["error"]
    assert "HF_HUB_OFFLINE is set" in answer["error"]
    (repaired,) = fetch("org/safe")
    assert repaired["files"] == online["files"]
    assert "1 file," in repaired["notes"][0]


@pytest.mark.slow
def test_transformers_loads_from_the_test_hub_by_id(tmp_path: Path) -> None:
    """Plain `from_pretrained("org/tiny-bert")` works against `HubServer`, and gives real scores."""
    folder = tiny_model(tmp_path / "model", "text-classification")
    with HubServer({"org/tiny-bert": folder}) as server:
        environment = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home")}
        by_id, local = run(
            FROM_PRETRAINED, "org/tiny-bert", str(folder), **environment
        ).splitlines()
        weights = f"/org/tiny-bert/resolve/{server.commit('org/tiny-bert')}/model.safetensors"
        assert f"GET {weights}" in server.requests
    assert json.loads(by_id) == json.loads(local)


@pytest.mark.slow
def test_the_token_goes_to_the_hub_alone(tmp_path: Path) -> None:
    """Not to the host that the hub sends its files from (promises.md G27)."""
    models = {"org/safe": write_folder(tmp_path / "model", SAFE)}
    with HubServer(models) as files, HubServer(models, elsewhere=files.endpoint) as hub:
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        told = run(FETCH, json.dumps([["org/safe", None]]), HF_TOKEN="hf_secret", **environment)
        (answer,) = json.loads(told)
        assert "model.safetensors" in answer["files"]
        assert set(hub.tokens) == {"Bearer hf_secret"}
        assert any(each.endswith("/model.safetensors") for each in files.requests)
        assert files.tokens == []
