"""What the native handler asks a model to generate: prompts, settings, and whose fault a failure is."""

from collections.abc import Sequence
from typing import Any

from flambeau.engines.base import TokenSequence
from flambeau.engines.generation import GenerationSettings, generate_all
from flambeau.errors import ErrorKind, PredictionError
from flambeau.handlers.failures import lacks_memory
from flambeau.handlers.native_model import NativeModel
from flambeau.handlers.streamed_text import Stop
from flambeau.handlers.tokenizer import TextTokenizer
from flambeau.tasks.base import SAMPLING, AnswerOptions, Chat, GenerationTask, Row, TextInput

_LEGACY_SAMPLING = {"do_sample": True, "top_p": 0.95, "top_k": 60}
"""What TorchServe's Transformers example passes to `generate`."""

_FOR_BEAMS = ("length_penalty", "early_stopping")
_UNSET_MAX_LENGTH = 20
"""Transformers' own default, which old configurations have without meaning it."""


def rows_of(model: NativeModel, entry: Any, parameters: Any) -> Sequence[Row]:
    """What is read for an entry. Raises `PredictionError` for a chat without a template."""
    if isinstance(entry, Chat):
        return [TextInput(model.chat.render(entry), special=False)]
    return model.task.rows(entry, parameters)


def prompt_tokens(
    model: NativeModel, options: AnswerOptions, sequence: TokenSequence
) -> TokenSequence:
    """A prompt as the model gets it: in the language that the request names, if it names one.

    Raises `PredictionError` for a language that the model does not know.
    """
    code = getattr(options.parameters, "src_lang", None)
    language = _language_id(model.tokenizer, "src_lang", code) if code is not None else None
    if language is None:
        return sequence
    own = frozenset(model.tokenizer.languages.values())
    return TokenSequence([language if token in own else token for token in sequence.ids])


def stops(options: AnswerOptions) -> list[Stop]:
    """The strings that end a text."""
    parameters = options.parameters
    found: list[Stop] = []
    for given, kept in ((parameters.stop, False), (parameters.stop_strings, True)):
        texts = [given] if isinstance(given, str) else given or []
        found += [Stop(text, kept) for text in texts]
    return found


def generation_settings(
    model: NativeModel, options: AnswerOptions, prompt_tokens: int
) -> GenerationSettings:
    """The request's parameters over those of the task and the model, cut to the room left.

    The legacy shape samples as TorchServe's example did; else the model's `generation_config.json`
    says, and where it does not, what the Transformers pipelines would take. Raises
    `PredictionError` for parameters that do not go together.
    """
    task = model.generates
    parameters = options.parameters
    given = parameters.settings()
    chosen: dict[str, Any] = {}
    beams = task.pipeline_defaults.get("num_beams")
    if beams and (options.pipeline or "num_beams" not in model.generation):
        chosen["num_beams"] = beams  # the pipelines' own goes before the model's
    if options.shape == "legacy" and not task.encodes:
        chosen |= _LEGACY_SAMPLING
    names = GenerationSettings.__struct_fields__
    chosen |= {k: v for k, v in task.defaults(parameters).items() if k in names}
    chosen |= given
    if task.sampling_asks and given.keys() & set(SAMPLING):
        chosen["do_sample"] = given.get("do_sample", True)
    if parameters.stream and "num_beams" not in given:
        chosen["num_beams"] = 1  # what beams have found is not settled before the end
    _check_sequences(task, model.generation | chosen)
    _drop_idle(chosen, model.generation | chosen)
    room = chosen["max_new_tokens"] = _room(model, options, prompt_tokens)
    longest = room + (1 if task.encodes else prompt_tokens)
    if (chosen.get("min_length", model.generation.get("min_length")) or 0) > longest:
        chosen["min_length"] = longest  # the same, without Transformers' warning each time
    target = getattr(parameters, "tgt_lang", None)
    if target is not None:
        chosen["forced_bos_token_id"] = _language_id(model.tokenizer, "tgt_lang", target)
    return GenerationSettings(**chosen, logprobs=bool(parameters.stream))


def _check_sequences(task: GenerationTask, whole: dict[str, Any]) -> None:
    count, beams = whole.get("num_return_sequences") or 1, whole.get("num_beams") or 1
    if count > 1 and beams < count and (beams > 1 or not whole.get("do_sample")):
        raise task.invalid(
            f"'num_return_sequences' must be 1 without sampling and with {beams} beams, not"
            f" {count}: set do_sample to true, or num_beams to {count} or more"
        )


def _drop_idle(chosen: dict[str, Any], whole: dict[str, Any]) -> None:
    """Leave out what would have no effect, of which Transformers would warn each time."""
    idle: tuple[str, ...] = ()
    if not whole.get("do_sample"):
        idle += SAMPLING
    if (whole.get("num_beams") or 1) == 1:
        idle += _FOR_BEAMS
    for name in idle:
        chosen.pop(name, None)


def _room(model: NativeModel, options: AnswerOptions, prompt_tokens: int) -> int:
    """How many tokens may be generated."""
    task, parameters = model.generates, options.parameters
    taken = 1 if task.encodes else prompt_tokens  # a decoder begins with a token of its own
    if parameters.max_new_tokens is not None:
        room = int(parameters.max_new_tokens)
    elif parameters.max_length is not None:
        room = parameters.max_length - taken
        if room < 1:
            raise task.invalid(
                f"'max_length' must be more than the prompt's {taken} tokens, not"
                f" {parameters.max_length}; max_new_tokens does not count the prompt"
            )
    else:
        room = max(1, _default_room(model, options, taken))
    if model.positions is not None:
        room = min(room, model.positions - taken)
    return room


def _default_room(model: NativeModel, options: AnswerOptions, taken: int) -> int:
    """Where the request does not say: the archive, then the model.

    The pipelines follow a model's `max_length`, and no `max_new_tokens` but their own.
    """
    task = model.generates
    named = model.new_tokens
    if not named and not options.pipeline:
        named = model.generation.get("max_new_tokens") or 0
    if named:
        return named
    own = model.generation.get("max_length")
    if own and own != _UNSET_MAX_LENGTH:
        return int(task.defaults(options.parameters).get("max_length", own)) - taken
    return int(task.pipeline_defaults["max_new_tokens"])


def _language_id(tokenizer: TextTokenizer, name: str, code: str) -> int | None:
    """The token of a language; None for a model that has no such tokens."""
    known = tokenizer.languages
    if not known:
        return None
    found = known.get(code, known.get(f"__{code}__"))
    if found is None:
        some = ", ".join(sorted(known)[:5])
        raise PredictionError(
            f"Invalid input: {name!r} must be one of the model's {len(known)} languages ({some},"
            f" ...), not {code[:50]!r}.",
            ErrorKind.INVALID_INPUT,
        )
    return found


def blamed(
    model: NativeModel, options: AnswerOptions, sequence: TokenSequence, error: Exception
) -> Exception:
    """The failure of a prompt, or the sampling parameters that it comes from.

    Those are to blame where the prompt runs without them.
    """
    asked = {name: getattr(options.parameters, name) for name in SAMPLING}
    asked = {name: value for name, value in asked.items() if value is not None}
    if not isinstance(error, RuntimeError | ValueError) or not asked or lacks_memory(error):
        return error
    plain = GenerationSettings(max_new_tokens=1, do_sample=True, top_k=0)
    try:
        generate_all(model.engine.session(), [sequence], [plain])
    except (RuntimeError, ValueError):
        return error
    told = ", ".join(f"{name} {value}" for name, value in asked.items())
    return PredictionError(
        f"The model cannot sample with {told}, but can without: leave them out, or choose less"
        " extreme values.",
        ErrorKind.INVALID_INPUT,
    )
