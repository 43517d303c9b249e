"""Which file configures the server: one that was named, the newest snapshot, or the folder's own."""

import argparse
from pathlib import Path

from flambeau.config import ServerConfig, config_file, is_named, is_switched_on, log_folder
from flambeau.serving.snapshots import newest_snapshot


def configuration(arguments: argparse.Namespace) -> tuple[Path | None, list[str]]:
    """The configuration file, and what the log should say about the choice (contract.md section 3.4).

    As in TorchServe, a server that is started without one goes on from its newest snapshot. There
    even an explicit `--models` was ignored then; here it wins.
    """
    file = config_file(arguments.ts_config)
    if is_named(arguments.ts_config) or arguments.no_config_snapshots:
        return file, []
    if file is not None and is_switched_on(file, "no_config_snapshots"):
        return file, []
    snapshot, notes = newest_snapshot(log_folder() / "config")
    if snapshot is None:
        return file, notes
    if arguments.models:
        note = (
            f"--models decides what is served; the snapshot {snapshot} is not restored."
            f" To restore it, start without --models, or with --ts-config {snapshot}"
        )
        return file, [*notes, note]
    instead = f"; {file} is not read" if file is not None else ""
    note = (
        f"Configuration and models are restored from the snapshot {snapshot}{instead}."
        " To start afresh, name a --ts-config or --models, or use --ncs"
    )
    return snapshot, [*notes, note]


def ignored_models(config: ServerConfig, models: list[str] | None) -> list[str]:
    """A note where both a snapshot and `--models` were named: the snapshot wins, as in TorchServe."""
    if not models or not config.model_snapshot:
        return []
    return ["The configuration file holds a model_snapshot, which is restored: --models is ignored"]
