"""What the tests of packing share."""

import tarfile
import zipfile
from pathlib import Path

from flambeau.archive.manifest import Manifest
from flambeau.archive.pack import PackRequest
from flambeau.archive.store import ModelStore


def request(**changes: object) -> PackRequest:
    """Return a request with a handler file, to be changed as the test needs."""
    fields = {
        "model_name": "m",
        "version": "1.0",
        "handler": "my.py",
        "export_path": Path("../out"),
    }
    return PackRequest(**(fields | changes))  # type: ignore[arg-type]  # the test's own keywords


def members(path: Path) -> set[str]:
    """Return the names of the files in an archive or folder, the manifest's left out."""
    if path.is_dir():
        names = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    elif path.suffix == ".mar":
        names = set(zipfile.ZipFile(path).namelist())
    else:
        with tarfile.open(path) as archive:
            assert {name.split("/")[0] for name in archive.getnames()} == {"m"}
            names = {name.partition("/")[2] for name in archive.getnames()}
    assert "MAR-INF/MANIFEST.json" in names
    return names - {"MAR-INF/MANIFEST.json"}


def manifest_of(path: Path, tmp_path: Path) -> Manifest:
    """Open a packed model as the server does."""
    return ModelStore(path.parent, tmp_path / "cache").open(path).manifest
