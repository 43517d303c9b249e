"""What the policy on signatures means for a server: its settings, its log lines, snapshots' digests."""

import logging
from pathlib import Path

import msgspec

from flambeau.archive.admission import Mode, Policy, untrusted
from flambeau.archive.contents import PYTHON_HANDLERS
from flambeau.archive.store import OpenedArchive
from flambeau.config import ServerConfig
from flambeau.serving.options import Registration
from flambeau.serving.snapshots import SavedModel

logger = logging.getLogger(__name__)


def signature_policy(config: ServerConfig) -> Policy:
    """The policy that a configuration asks for. What the server itself made of a folder is exempt."""
    mode: Mode = msgspec.convert(config.require_signed, Mode)
    exempt = config.cache_dir / "adopted"
    return Policy(mode, config.trusted_keys, config.trusted_identities, exempt)


def check_pinned(mode: str, saved: SavedModel, archive: OpenedArchive) -> None:
    """Compare an archive with the digest that a snapshot has of it.

    A changed one is told of, and under `require` refused (raises `ArchiveError`): a snapshot restores
    what was served, and an archive that was exchanged in between was never admitted by anybody.
    """
    known = archive.digest or mode == "require"  # of a folder in place, nobody computes it
    if not saved.sha256 or not known or saved.sha256 == archive.digest:
        return
    reason = (
        f"{saved.mar_name} is another archive now: its SHA-256 is {archive.digest or 'unknown'}, the"
        f" snapshot has {saved.sha256}"
    )
    if mode == "require":
        raise untrusted(f"{reason}. Register it anew to serve it, or start with --ncs")
    logger.warning("%s", reason)


def report_signature(
    mode: str, registration: Registration, path: Path, archive: OpenedArchive
) -> None:
    """Log what is known of a model's origin, in one line.

    A warning for what was altered, and for code that nobody answers for. A model of the stock
    handlers has none of its own: it is let be.
    """
    signature, digest = archive.signature, archive.digest or "not computed, a folder"
    if signature.status == "verified":
        logger.info("%s is signed by %s (sha256 %s)", path.name, signature.signer, digest)
    elif signature.status == "altered" or (
        signature.status != "unchecked" and _has_code(registration, archive)
    ):
        logger.warning(
            "%s is served though %s (require_signed=%s; sha256 %s)",
            path.name, _told(signature.status, signature.reason), mode, digest,
        )  # fmt: skip
    else:
        logger.info("%s has the sha256 %s", path.name, digest)


def _told(status: str, reason: str) -> str:
    return "its code is not signed" if status == "unsigned" else reason


def _has_code(registration: Registration, archive: OpenedArchive) -> bool:
    handler = registration.handler or archive.manifest.model.handler
    return bool(archive.manifest.model.model_file) or handler not in PYTHON_HANDLERS
