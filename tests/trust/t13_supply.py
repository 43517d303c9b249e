"""T13: only what a trusted signer signed is served where that is required; the release knows its parts."""

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from types import ModuleType

import httpx
import msgspec

from flambeau.archive.admission import Policy, Signature
from flambeau.archive.keys import SigningKey, Trusted, read_signing_key
from flambeau.archive.signing import sign, signature_file
from flambeau.archive.store import ModelStore, OpenedArchive
from flambeau.testing.echo import write_model
from flambeau.testing.signing import make_certificate, make_key
from tests.trust.mars import write_mar
from tests.trust.servers import TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_ROOT = Path(__file__).parents[2]
_STATES = ("signed", "certified", "unsigned", "altered", "stranger", "forged", "unnamed", "swapped",
           "broken bundle", "no archive")  # fmt: skip
_GOOD = ("signed", "certified")
_IDENTITY = "release@example.org"


class _Keys(msgspec.Struct, frozen=True):
    """Who signs: a trusted key, a trusted certificate, one of another name, and a stranger."""

    trusted: Path
    release: SigningKey
    certified: SigningKey
    unnamed: SigningKey
    stranger: SigningKey


def run(run: Run) -> Figures:
    """The lock and the bill of materials; then every kind of signature under each policy."""
    keys = _make_keys(run.folder / "keys")
    models = run.folder / "models"
    names = _make_models(models, keys)
    count = dict.fromkeys(
        ("matrix", "unsigned_loaded", "tampered_loaded", "signed_refused", "parsed_first", "untold",
         "pip_runs", "dead"), 0)  # fmt: skip
    for mode in ("require",) if run.control else ("require", "warn", "off"):
        store = run.folder / mode / "store"
        shutil.copytree(models, store)
        told = {
            "require_signed": mode,
            "trusted_keys": keys.trusted,
            "trusted_identities": _IDENTITY,
        }
        sign(write_model(store, "stub"), keys.release)
        with trust_server(run, name=mode, properties=told) as server:
            for name, state in names.items():
                if mode != "off" or name.endswith(".mar"):
                    _register(server, mode, name, state, count)
            count["dead"] += not server.alive()
        count["pip_runs"] += len(list((run.folder / mode / "cache").glob("environments/*")))
        log = server.log.read_text()
        if mode == "warn":
            unsigned = [
                name for name, state in names.items() if state not in (*_GOOD, "no archive")
            ]
            count["untold"] += sum(log.count(f"{name} is served though") != 1 for name in unsigned)
    return {**count, **_lock(run.folder), **_materials()}


def _register(server: TrustServer, mode: str, name: str, state: str, count: dict[str, int]) -> None:
    query = {"url": name, "model_name": "m", "initial_workers": "0"}
    answer = httpx.post(f"{server.management}/models", params=query, timeout=60)
    loaded = answer.status_code == 200
    count["matrix"] += 1
    if mode != "require":
        count["signed_refused"] += loaded is (state == "no archive")
    elif state in _GOOD:
        count["signed_refused"] += not loaded
    else:
        count["unsigned_loaded" if state == "unsigned" else "tampered_loaded"] += loaded
        refused = answer.json().get("type") == "UntrustedModelException"
        count["parsed_first"] += not loaded and not (refused and answer.status_code == 403)
    if loaded:
        described = httpx.get(f"{server.management}/models/m", timeout=60).json()[0]["archive"]
        wanted = {"off": "unchecked"}.get(mode, "verified" if state in _GOOD else "")
        count["untold"] += bool(wanted) and described["signature"] != wanted
        if name.endswith(".mar"):
            file = server.folder / "store" / name
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            count["untold"] += described["sha256"] != digest
        httpx.delete(f"{server.management}/models/m", timeout=60)


def _make_keys(folder: Path) -> _Keys:
    release, robot, other, stranger, root = (
        make_key(folder, name) for name in ("release", "robot", "other", "stranger", "root")
    )
    trusted = folder / "trusted"
    trusted.mkdir()
    shutil.copy(release.public, trusted)
    make_certificate(trusted / "root.pem", "Root", root, ("Root", root), authority=True)
    named = make_certificate(folder / "robot.pem", _IDENTITY, robot, ("Root", root))
    unnamed = make_certificate(folder / "other.pem", "intern@example.org", other, ("Root", root))
    return _Keys(
        trusted,
        read_signing_key(release.private),
        read_signing_key(robot.private, (named,)),
        read_signing_key(other.private, (unnamed,)),
        read_signing_key(stranger.private),
    )


def _make_models(store: Path, keys: _Keys) -> dict[str, str]:
    """Archives and folders in each state; their names, and the state."""
    store.mkdir()
    made: dict[str, str] = {}
    for state in _STATES:
        slug = state.replace(" ", "-")
        archive = write_mar(store / f"{slug}.mar", slug)
        folder = write_model(store, f"{slug}-folder")
        (folder / "requirements.txt").write_text("flambeau-names-no-such-package\n")
        for model in (archive, folder):
            if state == "no archive" and model is folder:
                shutil.rmtree(folder)
                continue
            _put_in_state(model, state, keys)
            made[model.name] = state
    return made


def _put_in_state(model: Path, state: str, keys: _Keys) -> None:
    signers = {
        "certified": keys.certified,
        "unnamed": keys.unnamed,
        "stranger": keys.stranger,
    }
    if state not in ("unsigned", "no archive"):
        sign(model, signers.get(state, keys.release))
    file = signature_file(model)
    content = model / "handler.py" if model.is_dir() else model
    match state:
        case "altered":
            content.write_bytes(content.read_bytes() + b"#")
        case (
            "forged"
        ):  # a true statement of the altered model, under the signature of the other one
            content.write_bytes(content.read_bytes() + b"#")
            genuine = json.loads(file.read_text())
            sign(model, keys.stranger)
            forged = json.loads(file.read_text())
            forged["dsseEnvelope"]["signatures"] = genuine["dsseEnvelope"]["signatures"]
            forged["verificationMaterial"] = genuine["verificationMaterial"]
            file.write_text(json.dumps(forged))
        case "swapped":  # a genuine signature, of another model
            other = model.with_name("other-model.bin")
            other.write_bytes(b"another model")
            sign(other, keys.release).replace(file)
            other.unlink()
        case "broken bundle":
            file.write_bytes(b'{"mediaType": ' + b"[" * 5000)
        case "no archive":
            model.write_bytes(b"PK\3\4 nothing that can be read")
        case _:
            pass


def _lock(folder: Path) -> Figures:
    """The lock against what is installed and pinned, and whether pip heeds its hashes."""
    supply = _supply()
    lines = [line for line in supply.LOCK.read_text().splitlines() if not line.startswith("#")]
    whole = re.compile(r"([a-z0-9-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")
    locked = {match[1]: match[2] for line in lines if (match := whole.fullmatch(line))}
    pins = (line.partition("==") for line in (_ROOT / "constraints.txt").read_text().splitlines())
    pinned = {supply.normalized(name): version for name, _, version in pins}
    closure = supply.runtime_closure()
    return {
        "locked": len(locked),
        "lock_unhashed": len(lines) - len(locked),
        "lock_missing": len(closure.keys() - locked.keys()),
        "lock_disagrees": sum(
            name in pinned and pinned[name] != version.partition("+")[0]
            for name, version in locked.items()
        ),
        "hash_ignored": _hash_ignored(folder),
    }


def _hash_ignored(folder: Path) -> int:
    """How often pip took a file whose hash is not the lock's, or refused the right one."""
    wheel = folder / "flambeau_probe-1.0-py3-none-any.whl"
    info = "flambeau_probe-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: flambeau-probe\nVersion: 1.0\n"
        )
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    right = hashlib.sha256(wheel.read_bytes()).hexdigest()
    wrong = 0
    for digest, wanted in ((right, 0), ("0" * 64, 1)):
        lock = folder / "probe.lock"
        lock.write_text(f"flambeau-probe==1.0 --hash=sha256:{digest}\n")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--no-index",
                   "--require-hashes", "--find-links", str(folder), "-r", str(lock)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, timeout=60)
        wrong += done.returncode != wanted
    return wrong


def _materials() -> Figures:
    supply = _supply()
    document = json.loads(json.dumps(supply.bill_of_materials()))
    listed = {each["purl"] for each in document["components"]}
    closure = supply.runtime_closure()
    missing = {supply._purl(each) for each in closure.values()} - listed
    references = {each["ref"] for each in document["dependencies"]}
    return {
        "sbom_components": len(listed),
        "sbom_missing": len(missing) + len(listed - references),
        "sbom_unhashed": sum("hashes" not in each for each in document["components"]),
    }


def _supply() -> ModuleType:
    spec = importlib.util.spec_from_file_location("supply", _ROOT / "scripts" / "supply.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _skip_verify() -> None:
    """Believe a bundle that is well formed."""
    Trusted.signer = lambda self, bundle: "anybody"  # type: ignore[method-assign]  # a flaw


def _parse_before_verify() -> None:
    """Unpack first, and look at the signature afterwards."""
    plain = ModelStore._open_file

    def carelessly(
        self: ModelStore, file: BufferedReader, path: Path, name: str, check: Callable[[], None]
    ) -> OpenedArchive:
        policy, self.policy = self.policy, Policy()
        try:
            opened = plain(self, file, path, name, check)
        finally:
            self.policy = policy
        return msgspec.structs.replace(
            opened, signature=policy.judge_archive(path, name, opened.digest)
        )

    ModelStore._open_file = carelessly  # type: ignore[method-assign]  # a flaw


def _signed_is_enough() -> None:
    """Check who signed, and not what."""

    def carelessly(self: Policy, path: Path, name: str, digest: str) -> Signature:
        files = [path.with_name(path.name + ".sig")]
        return self._let_in(self._signed(files)[1])

    Policy.judge_archive = carelessly  # type: ignore[method-assign]  # a flaw


SUITE = Suite(
    name="t13",
    title="supply",
    promises=("G32", "G33"),
    limits=(
        Limit("matrix", low=19),
        Limit("unsigned_loaded", exactly=0),
        Limit("tampered_loaded", exactly=0),
        Limit("signed_refused", exactly=0),
        Limit("parsed_first", exactly=0),
        Limit("untold", exactly=0),
        Limit("pip_runs", exactly=0),
        Limit("dead", exactly=0),
        Limit("locked", low=30),
        Limit("lock_unhashed", exactly=0),
        Limit("lock_missing", exactly=0),
        Limit("lock_disagrees", exactly=0),
        Limit("hash_ignored", exactly=0),
        Limit("sbom_missing", exactly=0),
        Limit("sbom_unhashed", exactly=0),
    ),
    controls={
        "skip-verify": _skip_verify,
        "parse-before-verify": _parse_before_verify,
        "signed-is-enough": _signed_is_enough,
    },
    run=run,
)
