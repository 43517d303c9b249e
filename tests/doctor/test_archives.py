"""What the doctor finds in an archive's weights, files and settings."""

import io
import json
import struct
import zipfile
from pathlib import Path

import msgspec
import pytest
import torch

from flambeau.archive.model_folder import pack_folder, read_model_folder
from flambeau.archive.pack import PackRequest, pack
from flambeau.doctor.examine import examine
from flambeau.errors import ArchiveError
from flambeau.testing.models import tiny_model
from tests.doctor.conftest import Examine, brief, found

STACK_OF_OS_SYSTEM = (
    b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R."
)


def saved(value: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def test_pickles(examined: Examine) -> None:
    """A state dict is a note, whole objects a warning, what can run code an error; none is loaded."""
    module = torch.nn.Linear(2, 2)
    report = examined(
        files={
            "state.pt": saved(module.state_dict()),
            "old.pt": saved(module.state_dict(), _use_new_zipfile_serialization=False),
            "whole.pt": saved(module),
            "bad.pkl": STACK_OF_OS_SYSTEM,
            "legacy.bin": b"cos\nsystem\n(S'true'\ntR.",
            "cut.pkl": STACK_OF_OS_SYSTEM[:9],
            "script.pt": b"",
            "spiece.model": b"\x0a\x0e",
        }
    )
    assert brief(report) == {
        ("note", "pickle", "state.pt"),
        ("note", "pickle", "old.pt"),
        ("warning", "pickle-objects", "whole.pt"),
        ("error", "pickle-danger", "bad.pkl"),
        ("error", "pickle-danger", "legacy.bin"),
        ("warning", "pickle-unreadable", "cut.pkl"),
    }
    texts = {finding.where: finding.what for finding in report.findings}
    assert "posix.system" in texts["bad.pkl"]
    assert "torch.nn.modules.linear.Linear" in texts["whole.pt"]


def test_safetensors_that_are_cut(examined: Examine) -> None:
    """Told from the header alone: the file must have every byte that it speaks of."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    whole = struct.pack("<Q", len(header)) + header + bytes(8)
    report = examined(
        files={"a.safetensors": whole, "b.safetensors": whole[:-1], "c.safetensors": b"no"}
    )
    assert brief(report) == {
        ("error", "broken-weights", "b.safetensors"),
        ("error", "broken-weights", "c.safetensors"),
    }


def test_weights_made_to_break_their_reader(examined: Examine) -> None:
    """Whatever a file holds, it is told of and never ends the command."""
    nested = (200_000).to_bytes(8, "little") + b"[" * 200_000
    cut = io.BytesIO()
    with zipfile.ZipFile(cut, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
    newer = cut.getvalue().replace(b"PK\x01\x02\x14\x03\x14", b"PK\x01\x02\x14\x03\xff")
    assert newer != cut.getvalue()
    report = examined(files={"a.safetensors": nested, "b.pt": newer, "c.pkl": b"\x80\x04X\xff"})
    assert brief(report) == {
        ("error", "broken-weights", "a.safetensors"),
        ("warning", "pickle-unreadable", "c.pkl"),
    }


def test_yaml_and_requirements(examined: Examine) -> None:
    """Misspelt and mistyped keys, pins that the installed packages do not meet, what is lacking."""
    report = examined(
        yaml="minWorkers: 1\nmaxWorkers: 1\nbatchsize: 4\nmaxBatchDelay: soon\nparallelType: tp\n",
        requirements="# needs\ntransformers<5  # old\nabsent-package>=1\n--no-index\nnumpy\n",
    )
    assert brief(report) == {
        ("warning", "yaml", "model-config.yaml"),
        ("warning", "parallel", "model-config.yaml"),
        ("error", "requirements", "requirements.txt:2"),
        ("warning", "requirements", "requirements.txt"),
    }
    texts = " ".join(finding.what for finding in report.findings)
    for part in ("batchSize", "'soon'", "transformers<5 does not admit", "absent-package>=1"):
        assert part in texts, part


def test_a_yaml_that_nobody_reads(examined: Examine) -> None:
    """It lies in the archive, but the manifest does not name it."""
    report = examined(files={"model-config.yaml": "batchSize: 4"})
    assert brief(report) == {("warning", "yaml-unused", "model-config.yaml")}


def test_manifests(tmp_path: Path) -> None:
    """One that cannot be read, one that is missing, and one that names too little."""
    store = tmp_path / "store"
    cases: dict[str, dict[str, str]] = {
        "broken.mar": {"MAR-INF/MANIFEST.json": "{"},
        "none.mar": {"h.py": "def handle(data, context):\n    return data\n"},
        "lsp.mar": {
            "MAR-INF/MANIFEST.json": json.dumps(
                {"runtime": "LSP", "model": {"handler": "BaseHandler", "envelope": "json"}}
            )
        },
    }
    store.mkdir()
    for name, files in cases.items():
        with zipfile.ZipFile(store / name, "w") as archive:
            for entry, text in files.items():
                archive.writestr(entry, text)
    (store / "notes.txt").touch()
    reports = {report.archive: found(report) for report in examine(store)}
    assert set(reports) == set(cases)
    assert "not valid JSON" in reports["broken.mar"]["archive"].what
    assert reports["none.mar"].keys() == {"no-manifest", "handler"}
    assert {"runtime", "manifest", "handler"} <= reports["lsp.mar"].keys()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier as save_pretrained writes it."""
    return tiny_model(tmp_path_factory.mktemp("model"), "text-classification", labels=["a", "b"])


def test_a_native_archive(folder: Path, tmp_path: Path) -> None:
    """It is said that Flambeau's own handler answers, and nothing is wrong."""
    request = PackRequest(model_name="n", version="1.0", handler="", export_path=tmp_path)
    settings = {"handler": {"task": "text-classification"}}
    (tmp_path / "scratch").mkdir()
    path = pack_folder(read_model_folder(folder), request, settings, tmp_path / "scratch", print)
    (report,) = examine(path)
    assert (report.served, report.findings) == ("native", ())


def test_engines_for_exported_graphs(folder: Path, tmp_path: Path) -> None:
    """A graph that the engine does not find is an error; OpenVINO's weights are no pickle."""
    request = PackRequest(model_name="n", version="1.0", handler="", export_path=tmp_path)
    (tmp_path / "openvino_model.xml").write_text("<net/>")
    (tmp_path / "openvino_model.bin").write_bytes(STACK_OF_OS_SYSTEM)
    graphs = f"{tmp_path}/openvino_model.xml,{tmp_path}/openvino_model.bin"
    found = {}
    for engine, extra in (("onnx", ""), ("openvino", graphs)):
        scratch = tmp_path / engine
        scratch.mkdir()
        asked = msgspec.structs.replace(request, model_name=engine, extra_files=extra)
        settings = {"handler": {"task": "text-classification", "engine": engine}}
        path = pack_folder(read_model_folder(folder), asked, settings, scratch, print)
        (report,) = examine(path)
        found[engine] = brief(report)
    assert found == {"onnx": {("error", "weights", "")}, "openvino": set()}


@pytest.mark.parametrize("model_name", ["", "owner/name"])
def test_a_native_archive_that_lacks_files(tmp_path: Path, model_name: str) -> None:
    """No tokenizer (an error, or a warning where the hub has one), no weights, no labels, no config."""
    yaml = tmp_path / "model-config.yaml"
    handler = {"task": "text-classification", "model_name": model_name, "BetterTransformer": True}
    yaml.write_text(json.dumps({"handler": handler}))
    path = pack(
        PackRequest(
            model_name="n", version="1.0", handler="transformers_handler", config_file=yaml,
            export_path=tmp_path,
        )
    )  # fmt: skip
    (report,) = examine(path)
    assert report.served == "native"
    assert brief(report) == {
        ("warning" if model_name else "error", "tokenizer", ""),
        ("error", "weights", ""),
        ("error", "config", ""),
        ("warning", "labels", ""),
        ("note", "settings", ""),
    }


def test_a_handler_of_one_s_own_without_tokenizer_files(examined: Examine) -> None:
    """It uses Transformers' tokenizers, and the archive has none."""
    code = (
        "from transformers import AutoTokenizer\n"
        "def handle(data, context):\n"
        "    AutoTokenizer.from_pretrained(context.system_properties['model_dir'])\n"
        "    return list(data)\n"
    )
    assert brief(examined(code)) == {("warning", "tokenizer", "my_handler.py")}


@pytest.mark.parametrize(
    ("handler", "codes"),
    [
        ("base_handler", {"weights"}),
        ("image_classifier", {"weights"}),
        ("text_classifier", {"weights", "vocabulary"}),
        ("dali_image_classifier", {"import", "weights"}),
        ("vllm_handler", {"import"}),
    ],
)
def test_built_in_handlers(tmp_path: Path, handler: str, codes: set[str]) -> None:
    """What they need and do not find."""
    request = PackRequest(model_name="b", version="1.0", handler=handler, export_path=tmp_path)
    (report,) = examine(pack(request))
    assert report.served == f"the built-in {handler}"
    assert {one.code for one in report.findings if one.severity == "error"} == codes


def test_a_handler_that_is_not_there(tmp_path: Path) -> None:
    """Neither a file nor built in: what is, is said."""
    folder = tmp_path / "m"
    (folder / "MAR-INF").mkdir(parents=True)
    model = {"modelName": "m", "handler": "my_service:run"}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": model}))
    (report,) = examine(folder)
    assert report.served == "nobody"
    assert "transformers_handler" in found(report)["handler"].what


def test_nothing_to_examine(tmp_path: Path) -> None:
    """No such path, and a folder without any model."""
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ArchiveError, match=r"holds no archive|does not exist"):
            examine(path)
