"""Packing: what goes in, under which name, in which format, and what is refused."""

import os
import resource
import signal
import zipfile
from pathlib import Path

import pytest

from flambeau.archive.manifest import read_manifest
from flambeau.archive.pack import ArchiveFormat, pack
from flambeau.errors import ArchiveError, FlambeauError
from tests.archive.packing import manifest_of, members, request

FORMATS: list[ArchiveFormat] = ["default", "zip-store", "tgz", "no-archive"]
SUFFIXES = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize("archive_format", FORMATS)
def test_formats(tmp_path: Path, archive_format: ArchiveFormat) -> None:
    """Every format holds the same files and manifest, and the server reads it."""
    full = request(
        archive_format=archive_format,
        serialized_file=Path("w.bin"),
        model_file=Path("net.py"),
        extra_files="a.txt,data",
        requirements_file=Path("reqs.txt"),
        config_file=Path("model.yaml"),
    )
    path = pack(full)
    assert path == Path("../out") / f"m{SUFFIXES[archive_format]}"
    assert members(path) == {
        *("w.bin", "net.py", "my.py", "a.txt", "reqs.txt", "model.yaml"),
        *(".dotfile", "c.txt", "sub/d.txt"),
    }
    manifest = manifest_of(path, tmp_path)
    assert manifest.runtime == "python"
    model = manifest.model
    assert (model.model_name, model.model_version, model.handler) == ("m", "1.0", "my.py")
    assert (model.serialized_file, model.model_file) == ("w.bin", "net.py")
    assert (model.requirements_file, model.config_file) == ("reqs.txt", "model.yaml")
    assert [file.name for file in Path("../out").iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("archive_format", "method"), [("default", zipfile.ZIP_DEFLATED), ("zip-store", 0)]
)
def test_compression(archive_format: str, method: int) -> None:
    """`zip-store` skips compression."""
    with zipfile.ZipFile(pack(request(archive_format=archive_format))) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {method}


def test_large_weights_are_stored_as_they_are() -> None:
    """They hardly shrink, and a start would have to inflate them; everything else is compressed."""
    weights = Path("big.safetensors")
    weights.write_bytes(os.urandom(2 * 1024 * 1024))
    with zipfile.ZipFile(pack(request(serialized_file=weights))) as archive:
        methods = {entry.filename: entry.compress_type for entry in archive.infolist()}
    assert methods.pop("big.safetensors") == zipfile.ZIP_STORED
    assert set(methods.values()) == {zipfile.ZIP_DEFLATED}


@pytest.mark.parametrize(
    ("handler", "in_manifest", "packed"),
    [
        ("text_classifier", "text_classifier", set()),
        ("transformers_handler", "transformers_handler", set()),
        ("my.py", "my.py", {"my.py"}),
        ("my", "my", {"my.py"}),
        ("./my", "my", {"my.py"}),
        ("../here/my:entry", "my:entry", {"my.py"}),
        ("my.py:entry", "my.py:entry", {"my.py"}),
    ],
)
def test_handler_forms(tmp_path: Path, handler: str, in_manifest: str, packed: set[str]) -> None:
    """Every form of `--handler` finds its file, and the manifest has the base name."""
    path = pack(request(handler=handler))
    assert members(path) == packed
    assert manifest_of(path, tmp_path).model.handler == in_manifest


@pytest.mark.parametrize(("handler", "packed"), [("BaseHandler", set()), ("libh:H", {"libh.so"})])
def test_handlers_of_the_lsp_runtime(handler: str, packed: set[str]) -> None:
    """With runtime LSP a handler is a library."""
    Path("libh.so").touch()
    assert members(pack(request(handler=handler, runtime="LSP"))) == packed


@pytest.mark.parametrize(
    ("listed", "packed"),
    [
        ("a.txt, b.txt ,", {"a.txt", "b.txt"}),
        ("*.txt", {"a.txt", "b.txt", "reqs.txt"}),
        ("[ab].txt,?.txt", {"a.txt", "b.txt"}),
        ("data/*", {"c.txt", "d.txt"}),
        ("./data/", {".dotfile", "c.txt", "sub/d.txt"}),
        ("a.txt,./a.txt,../here/a.txt", {"a.txt"}),
        ("", set()),
    ],
)
def test_extra_files(listed: str, packed: set[str]) -> None:
    """Blanks do no harm, wildcards are filled in, and of folders the content counts."""
    assert members(pack(request(extra_files=listed))) == {"my.py", *packed}


def test_file_whose_name_looks_like_a_wildcard() -> None:
    """A file that exists is taken by its name."""
    Path("x[1].txt").touch()
    assert members(pack(request(extra_files="x[1].txt"))) == {"my.py", "x[1].txt"}


def test_wildcard_without_a_match() -> None:
    """It is only told."""
    told: list[str] = []
    assert members(pack(request(extra_files="*.nothing"), told.append)) == {"my.py"}
    assert told == ["warning: the wildcard *.nothing in --extra-files matches no file"]


def test_links_are_followed() -> None:
    """A linked file or folder is packed with its content; a circle of links is an error."""
    Path("links").mkdir()
    Path("links", "file").symlink_to("../a.txt")
    Path("links", "folder").symlink_to("../data/sub")
    assert members(pack(request(extra_files="links"))) == {"my.py", "file", "folder/d.txt"}
    Path("links", "circle").symlink_to(".")
    with pytest.raises(ArchiveError, match="link to a folder that it lies in"):
        pack(request(extra_files="links", force=True))


def test_the_output_is_not_packed_into_itself() -> None:
    """Packing the folder that the archive lies in gives the same archive twice."""
    for archive_format in ("default", "no-archive"):
        changes = {"extra_files": ".", "export_path": Path(), "archive_format": archive_format}
        first = members(pack(request(**changes)))
        Path("m.mar").rename("../kept.mar") if archive_format == "no-archive" else None
        assert members(pack(request(**changes, force=True))) - {"m.mar"} == first - {"m.mar"}


def test_an_older_manifest_is_not_packed(tmp_path: Path) -> None:
    """Packing a model folder again writes a new manifest in place of the old one."""
    folder = pack(request(archive_format="no-archive", version="1.0"))
    path = pack(request(extra_files=str(folder), version="2.0"))
    assert zipfile.ZipFile(path).namelist().count("MAR-INF/MANIFEST.json") == 1
    assert manifest_of(path, tmp_path).model.model_version == "2.0"


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"model_name": "a b"}, "model name 'a b' is not allowed"),
    ({"model_name": "../m"}, "model name '../m' is not allowed"),
    ({"version": "1/2"}, "model version '1/2' is not allowed"),
    ({"export_path": Path("a.txt")}, "export-path a.txt is not a directory"),
    ({"export_path": Path("a.txt/x")}, "export-path a.txt/x is not a directory"),
    ({"export_path": Path("../new")}, r"export-path \.\./new is not a directory"),
    ({"model_file": Path("no.py")}, r"File does not exist: no\.py \(named by --model-file\)"),
    ({"serialized_file": Path("no.bin")}, r"no\.bin \(named by --serialized-file\)"),
    ({"serialized_file": Path("data")}, "data is not a regular file"),
    ({"requirements_file": Path("no.txt")}, r"no\.txt \(named by --requirements-file\)"),
    ({"config_file": Path("no.yaml")}, r"no\.yaml \(named by --config-file\)"),
    ({"extra_files": "a.txt, no.txt"}, r"File does not exist: no\.txt \(named in --extra-files"),
    ({"handler": "no"}, r"the handler file no\.py does not exist.*text_classifier"),
    ({"handler": "no.py:f"}, r"the handler file no\.py does not exist"),
    ({"handler": "densenet_handler"}, r"densenet_handler\.py does not exist"),
    ({"handler": ""}, "is not a handler"),
    ({"handler": ":f"}, "is not a handler"),
    ({"handler": "my.py:"}, "is not a handler"),
    ({"handler": "my", "runtime": "LSP"}, r"my\.so does not exist"),
    ({"extra_files": "a.txt,other/a.txt"}, r"a\.txt and other/a\.txt would both be 'a\.txt'"),
    ({"extra_files": "a.txt,other/A.txt"}, "differ only in case"),
    ({"extra_files": "sub,data"}, "'sub' is both a file and a folder"),
    ({"extra_files": "back\\slash"}, "has a backslash"),
]


@pytest.mark.parametrize(("changes", "reason"), REFUSED)
def test_refused(here: Path, changes: dict[str, object], reason: str) -> None:
    """A request that cannot be packed names the reason, and nothing is written or made."""
    (here / "other").mkdir()
    for name in ("other/a.txt", "other/A.txt", "sub", "back\\slash"):
        (here / name).write_text("other")
    before = sorted(here.parent.rglob("*"))
    with pytest.raises(FlambeauError, match=reason):
        pack(request(**changes))
    assert sorted(here.parent.rglob("*")) == before


def test_checks_come_in_torchserves_order(here: Path) -> None:
    """Name, export path, existing output, then files."""
    changes: dict[str, object] = {"model_name": "!", "export_path": Path("a.txt"), "handler": "no"}
    for fixed, reason in (
        ({}, "model name"),
        ({"model_name": "my", "export_path": Path("a.txt")}, "export-path"),
        ({"export_path": Path("../out")}, "already exists"),
        ({"force": True}, "handler file"),
    ):
        (here / "../out/my.mar").touch()
        changes |= fixed
        with pytest.raises(ArchiveError, match=reason):
            pack(request(**changes))


@pytest.mark.parametrize("archive_format", FORMATS)
def test_existing_outputs(archive_format: ArchiveFormat) -> None:
    """An existing output is only replaced with force; a failure leaves it as it was."""
    path = pack(request(archive_format=archive_format))
    old = members(path)
    with pytest.raises(ArchiveError, match=r"already exists\. Use --force"):
        pack(request(archive_format=archive_format))
    with pytest.raises(ArchiveError, match="does not exist"):
        pack(request(archive_format=archive_format, extra_files="no", force=True))
    assert members(path) == old
    told: list[str] = []
    pack(request(archive_format=archive_format, extra_files="a.txt", force=True), told.append)
    assert members(path) == old | {"a.txt"}
    assert told == [f"overwriting {path}"]


def test_force_keeps_other_files_of_a_folder(here: Path) -> None:
    """As in TorchServe, files that are not packed again stay; the sources are never written to."""
    folder = pack(request(archive_format="no-archive", extra_files="a.txt"))
    (folder / "kept.txt").write_text("kept")
    (here / "my.py").write_text("newer")
    pack(request(archive_format="no-archive", handler=str(folder / "my.py"), force=True))
    assert (folder / "kept.txt").read_text() == "kept"
    assert (folder / "my.py").read_text() == "content of my.py\n"
    pack(request(archive_format="no-archive", force=True))
    assert (folder / "my.py").read_text() == "newer"
    assert [file.name for file in folder.parent.iterdir()] == ["m"]


def test_force_does_not_replace_another_kind() -> None:
    """A folder is not deleted for an archive, nor a file for a folder."""
    Path("../out/m.mar").mkdir(parents=True)
    Path("../out/m").touch()
    with pytest.raises(ArchiveError, match="is a folder, which --force does not replace"):
        pack(request(force=True))
    with pytest.raises(ArchiveError, match="is a file, which --force does not replace"):
        pack(request(force=True, archive_format="no-archive"))


def test_the_temporary_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the model's name in the temporary folder is nobody's to delete."""
    (tmp_path / "temporary" / "m").mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    pack(request())
    assert (tmp_path / "temporary" / "m").is_dir()


@pytest.mark.slow
def test_what_the_server_would_refuse_is_told() -> None:
    """A file of zeros shrinks like a bomb does; the packer says so."""
    with Path("zeros.dat").open("wb") as file:
        file.truncate(65 * 2**20)
    told: list[str] = []
    pack(request(serialized_file=Path("zeros.dat")), told.append)
    assert len(told) == 1
    assert told[0].startswith("warning: the server will refuse to unpack ../out/m.mar")


def test_read_back_through_the_manifest(tmp_path: Path) -> None:
    """A packed folder is a model folder as it is."""
    folder = pack(request(archive_format="no-archive"))
    assert read_manifest(folder).model.handler == "my.py"


def test_failure_while_writing(here: Path) -> None:
    """An error while files are copied is one sentence that names it, without partial output."""
    (here / "big.bin").write_bytes(os.urandom(2**20))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        with pytest.raises(ArchiveError, match="File too large"):
            pack(request(extra_files="big.bin"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handled)
    assert list(Path("../out").iterdir()) == []
