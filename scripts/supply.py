"""What a release is made of: its lock, its bill of materials, its provenance (docs/security.md).

    python scripts/supply.py lock                    writes requirements.lock from pyproject.toml and constraints.txt
    python scripts/supply.py sbom                    prints a CycloneDX document of what is installed here
    python scripts/supply.py provenance FILE...      prints an in-toto statement about built files
    python scripts/supply.py audit                   asks pip-audit about the lock; needs a network

Standard library only: what describes the supply chain should not lengthen it.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
WAIVERS = ROOT / "audit-waivers.txt"
_HEAD = """\
# Everything that `pip install flambeau` brings, with the SHA-256 of each file: CPython 3.11, Linux, x86-64, torch
# for CPUs. Made by `python scripts/supply.py lock`; install with
#   pip install --require-hashes --no-deps -r requirements.lock && pip install --no-deps flambeau
# For another platform or a CUDA build of torch, make a lock there: their files have other hashes.
"""


def runtime_requirements() -> list[str]:
    """The project's own requirements, without extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [str(each) for each in project["dependencies"]]


def make_lock() -> str:
    """Have pip resolve the requirements, with the versions of constraints.txt; nothing is installed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet",
                   "--constraint", str(ROOT / "constraints.txt"), "--report", str(report)]  # fmt: skip
        subprocess.run([*command, *runtime_requirements()], check=True)
        found = json.loads(report.read_text())["install"]
    lines = {}
    for each in found:
        name = normalized(each["metadata"]["name"])
        digest = each["download_info"]["archive_info"]["hashes"]["sha256"]
        lines[name] = f"{name}=={each['metadata']['version']} --hash=sha256:{digest}"
    return _HEAD + "".join(f"{lines[name]}\n" for name in sorted(lines))


def normalized(name: str) -> str:
    """A distribution's name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def runtime_closure() -> dict[str, importlib.metadata.Distribution]:
    """All installed distributions that the requirements lead to, by normalized name.

    Raises `PackageNotFoundError` for a requirement that applies here and is not installed.
    """
    from packaging.requirements import Requirement

    wanted = [Requirement(each) for each in runtime_requirements()]
    found: dict[str, importlib.metadata.Distribution] = {}
    while wanted:
        requirement = wanted.pop()
        name = normalized(requirement.name)
        extras = requirement.extras or {""}
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if name in found and extras == {""}:
            continue
        found[name] = importlib.metadata.distribution(requirement.name)
        for text in found[name].requires or ():
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in extras):
                inner.marker = None
                wanted.append(inner)
    return found


def bill_of_materials() -> dict[str, object]:
    """A CycloneDX 1.6 document: this project, and what it runs on here, with licenses and hashes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    hashes = dict(locked())
    closure = runtime_closure()
    root = f"pkg:pypi/{project['name']}@{project['version']}"
    components = [_component(each, hashes.get(name, "")) for name, each in sorted(closure.items())]
    depends = [
        {"ref": _purl(each), "dependsOn": sorted(_direct(each, closure))}
        for each in closure.values()
    ]
    direct = sorted(
        _purl(closure[name]) for name in _named(runtime_requirements()) if name in closure
    )
    identity = hashlib.sha256(json.dumps(components, sort_keys=True).encode()).hexdigest()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(identity[:32])}",
        "version": 1,
        "metadata": {
            "timestamp": _time().isoformat(),
            "component": {
                "type": "application", "bom-ref": root, "purl": root, "name": project["name"],
                "version": project["version"], "licenses": [{"license": {"id": project["license"]}}],
            },
        },
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": direct}, *sorted(depends, key=lambda d: str(d["ref"]))],
    }  # fmt: skip


def locked() -> Iterator[tuple[str, str]]:
    """Name and SHA-256 of each line of the lock."""
    for line in LOCK.read_text().splitlines():
        if line and not line.startswith("#"):
            pin, _, digest = line.partition(" --hash=sha256:")
            yield pin.partition("==")[0], digest


def provenance(files: list[Path]) -> dict[str, object]:
    """An in-toto statement: which commit, lock and tools these files were built from (SLSA v1)."""
    commit = _git("rev-parse", "HEAD")
    materials = [{"uri": f"git+{_git('config', '--get', 'remote.origin.url') or 'local'}",
                  "digest": {"gitCommit": commit}},
                 {"name": LOCK.name, "digest": {"sha256": _sha256(LOCK)}}]  # fmt: skip
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": each.name, "digest": {"sha256": _sha256(each)}} for each in files],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "scripts/release",
                "externalParameters": {
                    "commit": commit,
                    "clean": not _git("status", "--porcelain"),
                },
                "resolvedDependencies": materials,
            },
            "runDetails": {
                "builder": {"id": "scripts/release on the maintainer's machine"},
                "metadata": {"finishedOn": _time().isoformat()},
            },
        },
    }


def audit() -> int:
    """Run pip-audit over the lock, without what audit-waivers.txt names; its exit code."""
    waived = [
        part
        for line in WAIVERS.read_text().splitlines()
        if (name := line.partition("#")[0].strip())
        for part in ("--ignore-vuln", name)
    ]
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "-r", str(LOCK)]
    return subprocess.run([*command, *waived], check=False).returncode


def _component(found: importlib.metadata.Distribution, digest: str) -> dict[str, object]:
    metadata = found.metadata
    component: dict[str, object] = {
        "type": "library", "bom-ref": _purl(found), "purl": _purl(found),
        "name": metadata["Name"], "version": found.version,
    }  # fmt: skip
    license_ = metadata.get("License-Expression") or metadata.get("License") or ""
    if license_ and "\n" not in license_:
        component["licenses"] = [{"license": {"name": license_}}]
    if digest:
        component["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return component


def _direct(
    found: importlib.metadata.Distribution, closure: dict[str, importlib.metadata.Distribution]
) -> set[str]:
    return {_purl(closure[name]) for name in _named(found.requires or []) if name in closure}


def _named(requirements: list[str]) -> set[str]:
    return {normalized(re.split(r"[^\w.-]", each, maxsplit=1)[0]) for each in requirements}


def _purl(found: importlib.metadata.Distribution) -> str:
    return f"pkg:pypi/{normalized(found.metadata['Name'])}@{found.version}"


def _time() -> datetime:
    """The commit's time where a build asks for it, so that two builds are equal."""
    told = os.environ.get("SOURCE_DATE_EPOCH")
    return datetime.fromtimestamp(int(told), UTC) if told else datetime.now(UTC)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def main() -> int:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["lock", "sbom", "provenance", "audit"])
    parser.add_argument("files", nargs="*", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "audit":
        return audit()
    if arguments.what == "lock":
        LOCK.write_text(make_lock())
        return 0
    made = provenance(arguments.files) if arguments.what == "provenance" else bill_of_materials()
    print(json.dumps(made, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
