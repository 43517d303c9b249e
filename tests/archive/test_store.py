"""The model store and its cache."""

import hashlib
import json
import os
import threading
import zipfile
from pathlib import Path

import pytest

from flambeau.archive.manifest import Manifest
from flambeau.archive.store import ModelStore
from flambeau.errors import ArchiveError, ErrorKind

MANIFEST = {"runtime": "python", "model": {"modelName": "m", "modelVersion": "1.0"}}


def make_mar(path: Path, manifest: object = MANIFEST, data: bytes = b"weights") -> Path:
    """Write a small archive with a manifest."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        file.writestr("w.bin", data)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of a store with one of each."""
    folder = tmp_path / "store"
    (folder / "dir" / "sub").mkdir(parents=True)
    (folder / "dir" / "w.bin").touch()
    (folder / ".hidden").mkdir()
    make_mar(folder / "m.mar")
    for name in ("t.tar.gz", "o.model", "notes.txt", ".half.mar", ".m.mar.0123.part"):
        (folder / name).touch()
    return folder


@pytest.fixture
def store(root: Path, tmp_path: Path) -> ModelStore:
    """A store whose cache does not exist yet."""
    return ModelStore(root, tmp_path / "cache")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("m.mar", "m.mar"),
        ("t.tar.gz", "t.tar.gz"),
        ("dir", "dir"),
        ("sub/m.mar", "m.mar"),
        ("/elsewhere/m.mar", "m.mar"),
        ("/elsewhere/dir", "dir"),
    ],
)
def test_find(store: ModelStore, root: Path, url: str, name: str) -> None:
    """A name is looked up in the store; a path is reduced to its last part."""
    assert store.find(url) == root / name


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "empty url"),
        ("../m.mar", "Relative path is not allowed in url: ../m.mar"),
        ("/a/../m.mar", "Relative path is not allowed in url: /a/../m.mar"),
        ("..", "Relative path is not allowed in url: .."),
        ("x.mar", "Model not found at: x.mar"),
        (".", "Model not found at: ."),
        ("/", "Model not found at: /"),
        (".half.mar", "Model not found at: .half.mar"),
        ("/etc", "Model not found at: /etc"),
        ("a\\m.mar", "Model not found at: 'a\\\\m.mar'"),
        ("m.mar\x00", "Model not found at: 'm.mar\\x00'"),
        ("é" * 128, f"Model not found at: {'é' * 128}... (no file has so long a name)"),
        ("/a" * 2001, f"Model not found at: {('/a' * 2001)[:255]}... (no file has so long a name)"),
    ],
)
def test_find_nothing(store: ModelStore, url: str, message: str) -> None:
    """What is not in the store is not found, with TorchServe's text."""
    with pytest.raises(ArchiveError) as caught:
        store.find(url)
    assert caught.value.message == message
    assert caught.value.kind is ErrorKind.MODEL_NOT_FOUND


@pytest.mark.parametrize("url", ["https://h/m.mar", "file:///p/m.mar", "ftp://h/m.mar", "s3://m"])
def test_find_does_not_download(store: ModelStore, url: str) -> None:
    """A URL is never quietly replaced by the store's file of that name."""
    with pytest.raises(ArchiveError, match="does not match any allowed URL"):
        store.find(url)


def test_absolute_folders(store: ModelStore, root: Path, tmp_path: Path) -> None:
    """Absolute folders are for operators, unless they lie in the store."""
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    assert store.find(str(root / "dir")) == root / "dir"
    for path in (tmp_path / "outside", root / "link" / "x"):
        with pytest.raises(ArchiveError, match="Model not found at"):
            store.find(str(path))
    outside = str(tmp_path / "outside")
    assert store.find(outside, allow_absolute_dirs=True) == tmp_path / "outside"


def test_list_all(store: ModelStore) -> None:
    """`all` means archives and folders, nothing hidden and nothing half-written."""
    assert [path.name for path in store.list_all()] == ["dir", "m.mar", "o.model", "t.tar.gz"]


def test_list_all_without_a_store(tmp_path: Path) -> None:
    """A store that is not there is an error, not an empty one."""
    with pytest.raises(ArchiveError, match="cannot be read: No such file"):
        ModelStore(tmp_path / "absent", tmp_path / "cache").list_all()


def test_open_unpacks_once(store: ModelStore, root: Path, tmp_path: Path) -> None:
    """An archive lands in the cache under its digest, and the second time nothing is written."""
    first = store.open(root / "m.mar")
    assert first.digest == hashlib.sha256((root / "m.mar").read_bytes()).hexdigest()
    assert first.model_dir == tmp_path / "cache" / first.digest / "model"
    assert first.manifest.model.model_name == "m"
    before = (first.model_dir / "w.bin").stat()
    assert store.open(root / "m.mar") == first
    assert (first.model_dir / "w.bin").stat().st_ino == before.st_ino


def test_same_archive_under_two_names(store: ModelStore, root: Path) -> None:
    """The cache goes by content."""
    (root / "copy.mar").write_bytes((root / "m.mar").read_bytes())
    assert store.open(root / "copy.mar") == store.open(root / "m.mar")


def test_new_content_under_the_same_name(store: ModelStore, root: Path) -> None:
    """A replaced archive is a new one, and the old folder stays for those who use it."""
    old = store.open(root / "m.mar")
    make_mar(root / "m.mar", data=b"newer")
    new = store.open(root / "m.mar")
    assert (new.model_dir / "w.bin").read_bytes() == b"newer"
    assert (old.model_dir / "w.bin").read_bytes() == b"weights"


@pytest.mark.parametrize("damage", ["missing", "cut", "link", "record", "marker"])
def test_damaged_cache_is_replaced(store: ModelStore, root: Path, damage: str) -> None:
    """A cached file that is gone, of another size or no file any more is unpacked again."""
    opened = store.open(root / "m.mar")
    weights, record = opened.model_dir / "w.bin", opened.model_dir.parent / "contents.json"
    match damage:
        case "missing":
            weights.unlink()
        case "cut":
            os.truncate(weights, 3)
        case "link":
            weights.rename(weights.with_name("moved"))
            weights.symlink_to("moved")
        case "record":
            record.write_text("[{")
        case _:
            record.unlink()
    assert store.open(root / "m.mar") == opened
    assert not weights.is_symlink()
    assert weights.read_bytes() == b"weights"


def test_files_of_handlers_stay_in_the_cache(store: ModelStore, root: Path) -> None:
    """A handler may write beside its model without losing it at the next start."""
    opened = store.open(root / "m.mar")
    (opened.model_dir / "compiled.so").touch()
    store.open(root / "m.mar")
    assert (opened.model_dir / "compiled.so").exists()


def test_leftovers_of_a_killed_process(store: ModelStore, root: Path, tmp_path: Path) -> None:
    """What a killed process left of an archive is removed when that archive is unpacked."""
    digest = hashlib.sha256((root / "m.mar").read_bytes()).hexdigest()
    leftover = tmp_path / "cache" / f".{digest}.00ff.part"
    leftover.mkdir(parents=True)
    store.open(root / "m.mar")
    assert not leftover.exists()


def test_racing_opens(store: ModelStore, root: Path, tmp_path: Path) -> None:
    """Several at once get one whole folder."""
    found, start = [], threading.Barrier(4)

    def run() -> None:
        start.wait()
        found.append(store.open(root / "m.mar"))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(opened == found[0] for opened in found)
    visible = [path.name for path in (tmp_path / "cache").iterdir() if path.name[0] != "."]
    assert visible == [found[0].digest]


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ({"model": {"configFile": "../x"}}, "configFile '../x' must be a file name"),
        ({"model": {"requirementsFile": "absent.txt"}}, "'absent.txt', which is not in"),
        ([], "not a JSON object"),
    ],
)
def test_bad_manifests_leave_nothing(
    store: ModelStore, root: Path, tmp_path: Path, manifest: object, reason: str
) -> None:
    """An archive with a bad manifest is refused by name, and does not enter the cache."""
    make_mar(root / "bad.mar", manifest)
    with pytest.raises(ArchiveError, match=f"^bad.mar: .*{reason}") as caught:
        store.open(root / "bad.mar")
    assert caught.value.kind is ErrorKind.INVALID_ARCHIVE
    assert [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_archives_that_are_being_copied(store: ModelStore, root: Path) -> None:
    """A part of an archive is refused at every length, and the whole is then taken."""
    whole = (root / "m.mar").read_bytes()
    part = root / "part.mar"
    for length in range(0, len(whole), 16):
        part.write_bytes(whole[:length])
        with pytest.raises(ArchiveError, match=r"^part\.mar: "):
            store.open(part)
    part.write_bytes(whole)
    assert store.open(part).manifest.model.model_name == "m"


def test_folders_are_used_in_place(store: ModelStore, root: Path) -> None:
    """A folder is neither copied nor in need of a manifest."""
    opened = store.open(root / "dir")
    assert (opened.model_dir, opened.manifest, opened.digest) == (root / "dir", Manifest(), "")


def test_sagemaker_layout(store: ModelStore, root: Path) -> None:
    """A folder whose only child is a folder stands for that child, but not for its manifest's."""
    (root / "nested" / "1").mkdir(parents=True)
    assert store.open(root / "nested").model_dir == root / "nested" / "1"
    (root / "bare" / "MAR-INF").mkdir(parents=True)
    (root / "bare" / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(MANIFEST))
    assert store.open(root / "bare").manifest.model.model_name == "m"


def test_folder_with_a_bad_manifest(store: ModelStore, root: Path) -> None:
    """Folders are held to the same rules about names."""
    (root / "dir" / "MAR-INF").mkdir()
    (root / "dir" / "MAR-INF" / "MANIFEST.json").write_text('{"model": {"configFile": "/x"}}')
    with pytest.raises(ArchiveError, match=r"^dir: .* must be a file name"):
        store.open(root / "dir")


def test_open_nothing(store: ModelStore, root: Path) -> None:
    """What vanished between `find` and `open` is a model that is not found."""
    with pytest.raises(ArchiveError, match="Model not found at") as caught:
        store.open(root / "gone.mar")
    assert caught.value.kind is ErrorKind.MODEL_NOT_FOUND
