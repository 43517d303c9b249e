"""Small archives for the suites."""

import json
import zipfile
from pathlib import Path

from flambeau.testing.echo import ECHO


def write_mar(file: Path, name: str, *, version: str = "1.0", source: str = ECHO) -> Path:
    """Write an archive of a stub model; its weights are its name, 100,000 times."""
    manifest = {
        "model": {"modelName": name, "modelVersion": version, "handler": "handler.py:handle"}
    }
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("handler.py", source)
        archive.writestr("weights.bin", name.encode() * 100_000)
    return file
