"""`flambeau pack --golden`: what is packed, what is refused before anything is loaded, and a server."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest

from flambeau.archive.golden import GOLDEN_PATH, MAX_SAMPLES
from flambeau.archive.model_folder import read_model_folder
from flambeau.archive.pack import PackRequest, stage
from flambeau.archive.pack import pack as pack_archive
from flambeau.cli.golden import reference_request
from flambeau.cli.pack import pack
from flambeau.cli.targets import Choices
from flambeau.config import DEFAULT_PRELOAD
from flambeau.errors import ArchiveError
from flambeau.testing.echo import register
from flambeau.testing.models import tiny_model
from flambeau.testing.server import running_server
from flambeau.testing.waiting import wait_until

COMMAND = str(Path(sys.executable).with_name("flambeau"))
LABELS = ["NEGATIVE", "POSITIVE"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    return tiny_model(root / "tiny", "text-classification", labels=LABELS)


@pytest.fixture(scope="module")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with golden outputs of two samples, packed with the command."""
    store = tmp_path_factory.mktemp("store")
    samples = store / "samples.jsonl"
    samples.write_text(
        '"the movie was great"\n{"inputs": ["a", "b"], "parameters": {"top_k": 1}}\n'
    )
    command: list[str | Path] = [
        COMMAND, "pack", folder, "--golden", samples, "--name", "m", "--archive-format",
        "no-archive", "--export-path", store,
    ]  # fmt: skip
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 golden outputs, by the engine torch" in done.stderr
    samples.unlink()
    assert [path.name for path in store.iterdir()] == ["m"], "nothing else is left"
    return store / "m"


def test_samples_are_kept_with_the_model_s_answers(packed: Path) -> None:
    """Inputs as they were, whole answers, and the packages that gave them."""
    document = json.loads((packed / GOLDEN_PATH).read_text())
    first, second = document["samples"]
    assert first["input"] == "the movie was great"
    assert {row["label"] for row in first["output"]} == set(LABELS)
    assert [[row.keys() for row in rows] for rows in second["output"]] == [
        [{"label", "score"}],
        [{"label", "score"}],
    ]
    assert {"flambeau", "torch", "transformers"} <= document["versions"].keys()


def test_a_model_that_answers_differently_does_not_become_ready(
    packed: Path, tmp_path: Path
) -> None:
    """With other weights in the archive: 503, the sample and the place in the reason, until mended.

    The one that was packed serves beside it, and its description says what was checked.
    """
    store = tmp_path / "store"
    for name in ("same", "altered"):
        shutil.copytree(packed, store / name)
    other = tiny_model(tmp_path / "other", "text-classification", labels=LABELS, seed=1)
    good = store / "altered" / "model.safetensors"
    shutil.copy(other / "model.safetensors", good)
    with running_server(store, tmp_path / "cache", preload=DEFAULT_PRELOAD) as server:
        assert register(server, "same", model_name="same").status_code == 200
        info = server.server.core.registry.get("same").info
        assert info["golden"] == "2 agree"
        answer = register(server, "altered", model_name="altered")
        assert answer.status_code == 500
        assert "For golden sample 1 of 2 the model gave" in answer.json()["message"]
        register(server, "altered", model_name="altered", synchronous="false")
        url = f"{server.inference}/predictions/altered"
        wait_until(lambda: "golden sample 1 of 2" in httpx.post(url, content="a").text)
        assert httpx.post(url, content="a").status_code == 503
        assert httpx.get(f"{server.inference}/ping").status_code == 500
        shutil.copy(packed / "model.safetensors", good)
        wait_until(lambda: httpx.post(url, content="a").status_code == 200)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "There is no file"),
        ("", "has no samples: write one request's body a line, as JSON"),
        ("\n \n", "has no samples"),
        ('"fine"\nnot quoted\n', 'line 2 is no JSON: Expecting value. A text is written "in quotes"'),
        ('{"text": NaN}', "line 1 is no JSON: NaN is no number"),
        ('"a"\n' * (MAX_SAMPLES + 1), f"{MAX_SAMPLES + 1} samples; an archive may have {MAX_SAMPLES}"),
        ('"' + "a" * 1_100_000 + '"', "more than 1048576 bytes"),
    ],
)  # fmt: skip
def test_samples_that_are_none(folder: Path, tmp_path: Path, text: str | None, reason: str) -> None:
    """Refused before anything is loaded or written, with the line."""
    samples = tmp_path / "samples.jsonl"
    if text is not None:
        samples.write_text(text)
    with pytest.raises(ArchiveError) as told:
        pack(str(folder), golden=samples, export_path=tmp_path / "out")
    assert reason in told.value.message
    assert "samples.jsonl" in told.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("archive_format", ["default", "tgz"])
def test_golden_outputs_in_every_form_of_archive(
    packed: Path, folder: Path, tmp_path: Path, archive_format: str
) -> None:
    """Beside the manifest, where TorchServe looks for nothing else."""
    request = PackRequest(
        model_name="m", version="1.0", handler="transformers_handler", export_path=tmp_path,
        serialized_file=folder / "model.safetensors", golden=packed / GOLDEN_PATH,
        archive_format=archive_format,  # type: ignore[arg-type]  # one of its names
    )  # fmt: skip
    path = pack_archive(request)
    if archive_format == "tgz":
        with tarfile.open(path) as archive:
            names = archive.getnames()
    else:
        names = ZipFile(path).namelist()
    assert any(name.endswith("MAR-INF/golden.json") for name in names)


def test_a_folder_that_is_packed_again_loses_an_older_model_s_answers(
    packed: Path, folder: Path, tmp_path: Path
) -> None:
    """Without --golden there are none, though other files of the folder stay."""
    shutil.copytree(packed, tmp_path / "m")
    (tmp_path / "m" / "notes.txt").write_text("mine")
    pack(str(folder), name="m", export_path=tmp_path, archive_format="no-archive", force=True)
    assert not (tmp_path / "m" / GOLDEN_PATH).exists()
    assert (tmp_path / "m" / "notes.txt").exists()


def test_the_reference_is_torch_in_fp32_whatever_is_packed(folder: Path, tmp_path: Path) -> None:
    """The answers come of the weights, not of the form that is chosen for serving."""
    config = tmp_path / "model-config.yaml"
    config.write_text("handler: {engine: onnx, precision: int8, max_length: 20}\nbatchSize: 4\n")
    request = PackRequest(model_name="m", version="1", handler="", config_file=config)
    reference = reference_request(read_model_folder(folder), request, Choices(), tmp_path)
    assert reference is not None
    staged = stage(reference, tmp_path / "staged")
    assert (staged / "model.safetensors").resolve() == (folder / "model.safetensors").resolve()
    document = (staged / "model-config.yaml").read_text()
    for line in ("engine: torch", "precision: fp32", "max_length: 20", "batchSize: 4"):
        assert line in document
