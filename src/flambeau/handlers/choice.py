"""Whether our native handler answers in place of an archive's own. Runs and imports nothing of it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from flambeau.errors import ConfigError
from flambeau.handlers.entry import HandlerName, handler_file
from flambeau.handlers.recognise import recognise_file
from flambeau.handlers.settings import HandlerMode, parse_settings, read_json_object
from flambeau.types import OutputShape

_logger = logging.getLogger(__name__)


class NotShareableError(Exception):
    """The model's workers cannot be forked once it is loaded: each has to load it for itself."""


class Choice(NamedTuple):
    """Who answers: our native handler (in which output shape by default), or the archive's.

    `told` says which, for people.
    """

    native: bool
    told: str
    output: OutputShape | None = None


def choose(name: HandlerName, model_dir: Path, config: Mapping[str, object]) -> Choice:
    """Whether the native handler stands in for the archive's own file."""
    file = handler_file(name, model_dir)
    if file is None:
        built_in = name.module == "transformers_handler" and not name.directory
        return Choice(built_in, "native" if built_in else "own")
    mode = _handler_mode(model_dir, config)
    form = recognise_file(file)
    if mode == "native":
        return Choice(True, "native (handler_mode: native)", "legacy")
    if mode == "auto" and form is not None:
        _logger.info(
            "%s is TorchServe's stock Transformers handler (%s): the model is served natively. "
            "handler_mode: as-is in its configuration runs the file itself.",
            file.name,
            form.era,
        )
        return Choice(True, f"native (stock handler of TorchServe {form.era})", "legacy")
    return Choice(False, "own")


def _handler_mode(model_dir: Path, config: Mapping[str, object]) -> HandlerMode:
    """`handler_mode` of the archive's settings; all other keys there may be the user's own."""
    section = config.get("handler")
    value = section.get("handler_mode") if isinstance(section, Mapping) else None
    if value is None:
        try:
            value = read_json_object(model_dir / "setup_config.json").get("handler_mode")
        except ConfigError:
            return "auto"  # a file of that name need not be ours
    return parse_settings({"handler_mode": value}, {}).handler_mode
