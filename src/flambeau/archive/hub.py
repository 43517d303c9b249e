"""Gets a model's files from a local folder, the Hugging Face hub or its cache.

Only what serving needs is fetched: configuration, tokenizer and weights, never code. The hub's
client reads its own environment (`HF_ENDPOINT`, `HF_HOME`, `HF_HUB_OFFLINE`, `HF_TOKEN`).
"""

import errno
import re
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flambeau.archive.sentence_files import listed_module_files
from flambeau.errors import HubError, first_line

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

REQUEST_SECONDS = 10
"""How long the hub may take to tell which files a model has."""
SHOWN_BYTES = 1_000_000
"""From this size on, a file's download has a progress bar on a terminal."""

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In the order of preference. The second is a pickle and is taken only without the first."""
_TOKENIZER_TEXTS = frozenset({"vocab.txt", "merges.txt", "chat_template.jinja"})
_TOKENIZER_MODEL = ".model"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


def fetch_model(
    name: str,
    revision: str | None = None,
    *,
    report: Callable[[str], None] = lambda _: None,
) -> Path:
    """The folder with a model's files: `name` itself if it is a folder, else a hub snapshot.

    `revision` is a branch, tag or commit of the hub's repository, its main branch by default. All
    files are of one commit, which `snapshot_commit` tells. Where the hub does not answer, the cache
    serves. `report` is told, in one line each, what is done. Raises `HubError`, one line that says
    which model, what was tried and what to do.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            report(f"{name} is a local folder: revision {revision} is ignored")
        return folder
    _check_name(name)
    source = _Source(name, revision)
    try:
        listing = _list_files(source)
    except _UnreachableError as error:
        return _from_cache(source, str(error), report)
    return _download(source, listing, report)


def snapshot_commit(folder: Path) -> str | None:
    """The commit that a folder from `fetch_model` holds; None for a folder of the user's own."""
    is_snapshot = folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
    return folder.name if is_snapshot else None


def needed_files(names: Collection[str]) -> list[str]:
    """Those of a repository's files that serving needs: at its top, and in sentence-transformers'
    folders of modules.

    Configuration and tokenizer, and the weights in the safest form that there is. Without weights
    in a form that can be read, the list holds none.
    """
    top = sorted(name for name in names if "/" not in name)
    weights: list[str] = []
    for file in _WEIGHTS:
        stem, _, suffix = file.rpartition(".")
        shard = re.compile(rf"{re.escape(stem)}-\d+-of-\d+\.{suffix}")
        if file in top:
            weights = [file]
        elif f"{file}.index.json" in top:
            weights = [f"{file}.index.json", *(name for name in top if shard.fullmatch(name))]
        if weights:
            break
    others = [
        name
        for name in top
        if name in _TOKENIZER_TEXTS
        or name.endswith(_TOKENIZER_MODEL)
        or (name.endswith(".json") and not name.endswith(".index.json"))
    ]
    return others + listed_module_files(names) + weights


class _Source(msgspec.Struct, frozen=True):
    """A repository on the hub, and the revision that was asked for."""

    name: str
    revision: str | None

    @property
    def label(self) -> str:
        return f"{self.name} at revision {self.revision}" if self.revision else self.name


class _UnreachableError(Exception):
    """The hub did not answer, or not as a hub does; the message is the reason."""


def _check_name(name: str) -> None:
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local or not _REPOSITORY.fullmatch(name) or "--" in name or ".." in name:
        raise HubError(
            f"Model {name!r}: there is no such folder, and it is not a hub id."
            " Give a folder with config.json, or an id such as distilbert/distilbert-base-uncased."
        )


def _list_files(source: _Source) -> "ModelInfo":
    """What the hub says about a revision. Raises `HubError`, or `_UnreachableError`."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return HfApi().model_info(
            source.name, revision=source.revision, timeout=REQUEST_SECONDS, files_metadata=True
        )
    except OfflineModeIsEnabled:
        raise _UnreachableError("HF_HUB_OFFLINE is set") from None
    except GatedRepoError:
        raise HubError(
            f"Model {source.name}: {_endpoint()} has it, but gated. Ask for access on its page"
            " there, then log in with `hf auth login` or set HF_TOKEN."
        ) from None
    except RepositoryNotFoundError:
        raise HubError(
            f"Model {source.name}: {_endpoint()} has no such model, or it is private, and there is"
            " no such folder here. Check the id; for a private model set HF_TOKEN."
        ) from None
    except RevisionNotFoundError:
        raise HubError(
            f"Model {source.name}: {_endpoint()} has no revision {source.revision!r} of it."
            " Give a branch, tag or commit of that repository."
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status >= 500 or status == 429:
            raise _UnreachableError(f"it answered with HTTP status {status}") from None
        raise HubError(
            f"Model {source.name}: {_endpoint()} refused with HTTP status {status}."
            " Check HF_ENDPOINT and HF_TOKEN."
        ) from None
    # The transport's errors are httpx's or httpx2's, by the version of huggingface_hub, and an
    # address that is no hub may answer anything.
    except Exception as error:  # noqa: BLE001 - for the reason above
        raise _UnreachableError(first_line(error)) from None


def _download(source: _Source, listing: "ModelInfo", report: Callable[[str], None]) -> Path:
    """Bring the cache up to date with a listing; returns its snapshot."""
    from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache

    sizes = {file.rfilename: file.size or 0 for file in listing.siblings or []}
    names = needed_files(sizes)
    _check_complete(source, names, sizes, _endpoint())
    missing = [
        name
        for name in names
        if not isinstance(try_to_load_from_cache(source.name, name, revision=listing.sha), str)
    ]
    if missing:
        count = f"{len(missing)} file{'s' if len(missing) > 1 else ''}"
        total = format_size(sum(sizes[name] for name in missing))
        report(f"Downloading {source.label} from {_endpoint()}: {count}, {total}")
    try:
        for name in missing:
            # One after the other, so that a terminal shows one bar, with the file's name.
            with _progress_bars(shown=sizes[name] > SHOWN_BYTES and sys.stderr.isatty()):
                hf_hub_download(source.name, name, revision=listing.sha)
        with _progress_bars(shown=False):
            # Notes in the cache which commit the revision is: for loading without a network.
            found = snapshot_download(source.name, revision=source.revision, allow_patterns=names)
            if listing.sha and Path(found).name != listing.sha:  # the branch has moved meanwhile
                found = snapshot_download(source.name, revision=listing.sha, allow_patterns=names)
    except Exception as error:  # noqa: BLE001 - as in _list_files
        raise _broken_off(source, error) from None
    return Path(found)


def _broken_off(source: _Source, error: Exception) -> HubError:
    remedy = "Run the command again: what is complete is not downloaded twice"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        remedy = "The disk is full: make room, or set HF_HOME to a folder with more"
    return HubError(
        f"Model {source.name}: the download from {_endpoint()} to {_cache()} broke off"
        f" ({first_line(error)}). {remedy}."
    )


@contextmanager
def _progress_bars(*, shown: bool) -> Iterator[None]:
    """Hide the hub client's bars unless `shown`; some of them go into log files, too."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _from_cache(source: _Source, reason: str, report: Callable[[str], None]) -> Path:
    """The newest snapshot that the cache has of a revision, if nothing is missing in it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    advice = (
        "Check the network and HF_ENDPOINT, or give a folder with the model"
        " (config.json, model.safetensors, tokenizer.json) instead of the id."
    )
    try:
        found = Path(
            snapshot_download(
                source.name,
                revision=source.revision,
                local_files_only=True,
                allow_patterns="config.json",
            )
        )
        names = {
            path.relative_to(found).as_posix()
            for path in (*found.iterdir(), *found.glob("*/*"))
            if path.is_file()
        }
        _check_complete(source, needed_files(names), names, f"the cache {found}")
    except LocalEntryNotFoundError:
        raise HubError(
            f"Model {source.label} cannot be had: {_endpoint()} is out of reach ({reason}), and the"
            f" cache {_cache()} does not have it. {advice}"
        ) from None
    except HubError as error:
        raise HubError(f"{error} {_endpoint()} is out of reach ({reason}). {advice}") from None
    report(f"{_endpoint()} is out of reach ({reason}): using {source.label} from {_cache()}")
    return found


def _check_complete(
    source: _Source, needed: Collection[str], names: Collection[str], place: str
) -> None:
    """Raise `HubError` where `place` has no configuration or no whole weights of a model."""
    if "config.json" not in names:
        raise HubError(f"Model {source.label}: {place} has no config.json of it.")
    if any(name in needed for name in _WEIGHTS):
        return
    shards = [re.search(r"-\d+-of-(\d+)\.", name) for name in needed]
    counts = [int(shard.group(1)) for shard in shards if shard]
    if not counts:
        listing = ", ".join(sorted(names)[:8])
        raise HubError(
            f"Model {source.label}: {place} has no weights of it in safetensors or PyTorch form"
            f" (it has {listing})."
        )
    if len(counts) < counts[0]:
        raise HubError(
            f"Model {source.label}: {place} has {len(counts)} of {counts[0]} files of its weights."
        )


def format_size(count: int) -> str:
    """A number of bytes for people, in powers of 1000 as the hub shows them."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _cache() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)
