"""How the native handler continues prompts: the settings of each, and whose fault a failure is."""

from collections.abc import Sequence

import msgspec

from flambeau.engines.base import Generated, GenerationSettings, TokenSequence
from flambeau.errors import ErrorKind, PredictionError
from flambeau.handlers.failures import is_out_of_memory
from flambeau.handlers.native_model import DEFAULT_NEW_TOKENS, NativeModel
from flambeau.tasks.base import AnswerOptions

_LEGACY_SAMPLING = GenerationSettings(
    max_new_tokens=DEFAULT_NEW_TOKENS, do_sample=True, top_p=0.95, top_k=60
)
"""What TorchServe's Transformers example passes to `generate`."""

_GIVEN = ("max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "seed")
_SAMPLING = ("temperature", "top_k", "top_p")


def generation_settings(
    model: NativeModel, options: AnswerOptions, prompt_tokens: int
) -> GenerationSettings:
    """The request's parameters over the answers' shape's defaults, cut to the room left.

    The legacy shape samples as TorchServe's example did; the full one leaves it to the model's
    `generation_config.json`. Whoever sets a sampling parameter wants sampling.
    """
    legacy = options.shape == "legacy"
    base = _LEGACY_SAMPLING if legacy else GenerationSettings(model.new_tokens)
    given = {
        name: value for name in _GIVEN if (value := getattr(options.parameters, name)) is not None
    }
    if given.keys() & set(_SAMPLING):
        given.setdefault("do_sample", True)
    room = model.new_tokens
    if "max_new_tokens" in given:
        room = int(given["max_new_tokens"])
    if model.positions is not None:
        room = min(room, model.positions - prompt_tokens)
    settings = msgspec.structs.replace(base, **{**given, "max_new_tokens": room})
    if settings.do_sample is False:
        return GenerationSettings(room, do_sample=False)
    return settings


def generate(
    model: NativeModel,
    prompts: Sequence[TokenSequence],
    settings: Sequence[GenerationSettings],
    options: Sequence[AnswerOptions],
) -> list[Generated]:
    """Each prompt's continuation; `settings` and `options` have one element per prompt.

    Raises what the engine raises, but `PredictionError` (`INVALID_INPUT`) where a prompt that is
    alone fails with the request's sampling parameters and does not without them.
    """
    try:
        return model.engine.generate(prompts, settings)
    except (RuntimeError, ValueError) as error:
        asked = {name: getattr(options[0].parameters, name) for name in _SAMPLING}
        asked = {name: value for name, value in asked.items() if value is not None}
        if len(prompts) > 1 or not asked or is_out_of_memory(error):
            raise
        plain = msgspec.structs.replace(settings[0], temperature=None, top_k=None, top_p=None)
        if not _runs(model, prompts[0], plain):
            raise
        told = ", ".join(f"{name} {value}" for name, value in asked.items())
        raise PredictionError(
            f"The model cannot sample with {told}, but can without: leave them out, or choose less"
            " extreme values.",
            ErrorKind.INVALID_INPUT,
        ) from error


def _runs(model: NativeModel, prompt: TokenSequence, settings: GenerationSettings) -> bool:
    try:
        model.engine.generate([prompt], [settings])
    except (RuntimeError, ValueError):
        return False
    return True
