"""Where a model's tokenizer comes from, and how long its texts may be."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tokenizers import Tokenizer

from flambeau.errors import LoadError, first_line
from flambeau.handlers import tokenizer_classes, vocabularies
from flambeau.handlers.settings import HandlerSettings, read_json_object
from flambeau.handlers.tokenizer import TextTokenizer
from flambeau.handlers.tokenizer_vocabulary import TokenizerSource
from flambeau.tasks.base import BaseTask, GenerationTask

logger = logging.getLogger(__name__)

UNBOUNDED_MAX_LENGTH = 4_096
"""The longest text, in tokens, for models that name no limit of their own."""

_SANE_MAX_LENGTH = 1_000_000
"""Above this, a tokenizer's `model_max_length` means "none"."""

_VOCABULARIES = (
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
_OFFSET_POSITIONS = frozenset(
    {
        "camembert",
        "data2vec-text",
        "ibert",
        "longformer",
        "luke",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)
"""Model types that number positions from their padding's id + 1, as RoBERTa does."""


def load_tokenizer(
    model_dir: Path,
    settings: HandlerSettings,
    config: Mapping[str, object],
    task: type[BaseTask],
) -> TextTokenizer:
    """The tokenizer of an unpacked archive; `config` is the model's `config.json`.

    Taken from `tokenizer.json`, else from the archive's vocabulary, else by the settings'
    `model_name` from the Hugging Face cache or hub, as TorchServe's example did. Raises `LoadError`
    that names what was tried.
    """
    source = _find(model_dir, settings, config)
    _check_lower_case(source.tokenizer, settings)
    max_length = _max_length(settings, config, source.config)
    if issubclass(task, GenerationTask) and not task.encodes:
        positions = model_positions(config)
        # At least one token must fit behind a prompt.
        max_length = min(max_length, positions - 1) if positions else max_length
    return TextTokenizer(source, task, max_length, _pad_id(source, config))


def _find(
    model_dir: Path, settings: HandlerSettings, config: Mapping[str, object]
) -> TokenizerSource:
    if (model_dir / "tokenizer.json").is_file():
        return _from_folder(model_dir, config)
    tried = [f"tokenizer.json in the archive: not there (it has {_listing(model_dir)})"]
    if any((model_dir / name).is_file() for name in _VOCABULARIES):
        try:
            return _from_vocabulary(model_dir, settings, config)
        except Exception as error:  # noqa: BLE001 - any failure means: try the next source
            tried.append(f"the archive's vocabulary: {first_line(error)}")
    if settings.model_name:
        try:
            source = _from_hub(settings.model_name, settings, config)
        except Exception as error:  # noqa: BLE001 - as above
            tried.append(f"{settings.model_name} on the hub: {first_line(error)}")
        else:
            logger.warning(
                "The archive carries no tokenizer: using the one of %s from the Hugging Face cache"
                " or hub. Add tokenizer.json to the archive to be independent of it.",
                settings.model_name,
            )
            return source
    raise LoadError(
        f"No tokenizer for {settings.model_name or 'this model'}. Tried "
        + "; ".join(tried)
        + ". Add tokenizer.json and tokenizer_config.json to the archive (--extra-files), or set"
        " model_name to a model in the Hugging Face cache."
    )


def _from_folder(folder: Path, config: Mapping[str, object]) -> TokenizerSource:
    """`tokenizer.json`, brought to what the other files say."""
    given = read_settings(folder)
    name = tokenizer_classes.class_name(given, config)
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:
        raise LoadError(f"tokenizer.json cannot be read: {first_line(error)}.") from error
    # Without that file nobody knows better than tokenizer.json what the model was trained with.
    if name and (folder / "tokenizer_config.json").is_file():
        try:
            if name in vocabularies.OWN_FIRST_SPACE and given.get("add_prefix_space") is not None:
                # Where it is set, transformers 4.57.6 built the tokenizer anew.
                tokenizer = vocabularies.build(name, folder, given) or tokenizer
            tokenizer_classes.honour(tokenizer, name, given)
        except Exception as error:
            raise LoadError(
                f"tokenizer_config.json does not fit a {name}: {first_line(error)}."
            ) from error
    return TokenizerSource(tokenizer, with_defaults(name, given))


def _from_vocabulary(
    model_dir: Path, settings: HandlerSettings, config: Mapping[str, object]
) -> TokenizerSource:
    converted = convert_vocabulary(model_dir, config, settings.do_lower_case)
    return converted or _from_transformers(str(model_dir), settings, local=True)


def convert_vocabulary(
    folder: Path, config: Mapping[str, object], do_lower_case: bool | None
) -> TokenizerSource | None:
    """The tokenizer of a folder without `tokenizer.json`; None: of a class that is not known here.

    `config` is the model's `config.json`; `do_lower_case` outranks the folder's own settings.
    """
    given = read_settings(folder)
    name = tokenizer_classes.class_name(given, config)
    if do_lower_case is not None:
        given["do_lower_case"] = do_lower_case
    tokenizer = vocabularies.build(name, folder, given)
    if tokenizer is None:
        return None
    return TokenizerSource(tokenizer, {"tokenizer_class": name, **with_defaults(name, given)})


def read_settings(folder: Path) -> dict[str, object]:
    """`tokenizer_config.json`, and the added tokens of files older than their place in it."""
    given = read_json_object(folder / "tokenizer_config.json")
    if "added_tokens_decoder" in given:
        return given
    special = read_json_object(folder / "special_tokens_map.json")
    added = read_json_object(folder / "added_tokens.json")
    if added:
        given["added_tokens_decoder"] = {
            str(index): {
                "content": token,
                "special": token in special.values(),
                "normalized": token not in special.values(),
            }
            for token, index in added.items()
        }
    return given | special


def with_defaults(name: str, given: Mapping[str, object]) -> dict[str, object]:
    """The settings, with what the tokenizer's class has where they say nothing."""
    known = tokenizer_classes.CLASSES.get(name)
    return {**(known.defaults() if known else {}), **given}


def _from_hub(
    model_name: str, settings: HandlerSettings, config: Mapping[str, object]
) -> TokenizerSource:
    """From the cache without asking the network where it is there, else from the hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    def cached(file: str) -> Path:
        return Path(
            hf_hub_download(model_name, file, revision=settings.revision, local_files_only=True)
        )

    def fetch(file: str) -> Path:
        try:
            return cached(file)
        except LocalEntryNotFoundError:
            return Path(hf_hub_download(model_name, file, revision=settings.revision))

    try:
        folder = fetch("tokenizer.json").parent
    except Exception:  # noqa: BLE001 - the repository may have a vocabulary only
        return _from_transformers(model_name, settings, local=False)
    with suppress(OSError):
        fetch("tokenizer_config.json")
    with suppress(OSError):  # few have it alone, and none needs it enough to wait for a network
        cached("special_tokens_map.json")
    return _from_folder(folder, config)


def _from_transformers(name: str, settings: HandlerSettings, *, local: bool) -> TokenizerSource:
    from transformers import AutoTokenizer

    options: dict[str, object] = {}
    if settings.do_lower_case is not None:
        options["do_lower_case"] = settings.do_lower_case
    if not local and settings.revision is not None:
        options["revision"] = settings.revision
    found = AutoTokenizer.from_pretrained(
        name, local_files_only=local, trust_remote_code=False, **options
    )
    backend = getattr(found, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise LoadError("it has no fast tokenizer; save it as tokenizer.json")
    config: dict[str, object] = {
        "model_max_length": found.model_max_length,
        "model_input_names": list(found.model_input_names),
        "pad_token": found.pad_token,
        "unk_token": found.unk_token,
        "eos_token": found.eos_token,
        "mask_token": found.mask_token,
        "cls_token": found.cls_token,
        "padding_side": found.padding_side,
        "clean_up_tokenization_spaces": found.clean_up_tokenization_spaces,
    }
    return TokenizerSource(backend, config)


def _max_length(
    settings: HandlerSettings, config: Mapping[str, object], tokenizer_config: Mapping[str, object]
) -> int:
    saved = tokenizer_config.get("model_max_length")
    sane = saved if isinstance(saved, int) and 0 < saved < _SANE_MAX_LENGTH else None
    limits = [limit for limit in (settings.max_length, model_positions(config), sane) if limit]
    return min(limits, default=UNBOUNDED_MAX_LENGTH)


def model_positions(config: Mapping[str, object]) -> int | None:
    """How many tokens a model has positions for, by its `config.json`; None: no limit."""
    for name in ("max_position_embeddings", "n_positions"):
        positions = config.get(name)
        if isinstance(positions, int) and positions > 0:
            if config.get("model_type") in _OFFSET_POSITIONS:
                pad = config.get("pad_token_id", 1)
                return positions - (pad if isinstance(pad, int) else 1) - 1
            return positions
    return None


def _pad_id(source: TokenizerSource, config: Mapping[str, object]) -> int | None:
    """The id that fills short rows. Models without one, such as GPT-2, take their end token."""
    saved = source.tokenizer.padding
    eos = config.get("eos_token_id")
    candidates = [
        config.get("pad_token_id"),
        source.token_id("pad_token"),
        saved.get("pad_id") if saved else None,
        source.tokenizer.token_to_id("[PAD]"),
        source.tokenizer.token_to_id("<pad>"),
        eos[0] if isinstance(eos, list) and eos else eos,
        source.token_id("eos_token"),
    ]
    return next((found for found in candidates if isinstance(found, int) and found >= 0), None)


def _check_lower_case(tokenizer: Tokenizer, settings: HandlerSettings) -> None:
    """Warn where the archive's `do_lower_case` is not what the tokenizer does."""
    lowers = getattr(tokenizer.normalizer, "lowercase", None)
    if None not in (lowers, settings.do_lower_case) and lowers != settings.do_lower_case:
        logger.warning(
            "do_lower_case is %s, but the tokenizer's file says %s; the file is followed.",
            settings.do_lower_case,
            lowers,
        )


def _listing(model_dir: Path) -> str:
    names = sorted(entry.name for entry in model_dir.iterdir())
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
