"""A working folder for the tests of packing."""

from pathlib import Path

import pytest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model's files; the output goes to `out` beside it."""
    folder = tmp_path / "here"
    (folder / "data" / "sub").mkdir(parents=True)
    (folder / "data" / ".hidden").mkdir()
    (folder / "data" / "__pycache__").mkdir()
    (folder / "data" / "sub" / "__MACOSX").mkdir()
    for name in (
        *("my.py", "net.py", "w.bin", "reqs.txt", "model.yaml", "a.txt", "b.txt"),
        *("data/.dotfile", "data/c.txt", "data/sub/d.txt"),
        *("data/.hidden/x", "data/__pycache__/y", "data/sub/__MACOSX/z"),
    ):
        (folder / name).write_text(f"content of {name}\n")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(folder)
    return folder
