"""A model's tokenizer: where it comes from, how long texts may be, texts to tokens and back.

`tokenizer.json` is used as it stands, through the `tokenizers` library: `AutoTokenizer` rebuilds
some tokenizers and gets other tokens (design.md section 3).
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from tokenizers import Tokenizer

from flambeau.errors import ErrorKind, LoadError, PredictionError, first_line
from flambeau.handlers.settings import HandlerSettings, read_json_object
from flambeau.tasks.base import BaseTask, Encoding, GenerationTask, TextInput

if TYPE_CHECKING:
    from tokenizers import Encoding as LibraryEncoding

logger = logging.getLogger(__name__)

UNBOUNDED_MAX_LENGTH = 4_096
"""The longest text, in tokens, for models that name no limit of their own."""

MAX_CHARS_PER_TOKEN = 64
"""Of a text only `max_length` times so many characters are tokenised. Real texts have 1 to 6 per
token, so that nothing is lost, and a text of megabytes costs no more than one that fits."""

_SANE_MAX_LENGTH = 1_000_000
"""Above this, a tokenizer's `model_max_length` means "none"."""

_VOCABULARIES = (
    "vocab.txt",
    "vocab.json",
    "spiece.model",
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


class TokenizerSource(msgspec.Struct, frozen=True):
    """A tokenizer as it was found, and its `tokenizer_config.json`."""

    tokenizer: Tokenizer
    config: dict[str, object]


class TextTokenizer:
    """Texts to tokens and back, with truncation that is noticed."""

    def __init__(
        self, source: TokenizerSource, task: type[BaseTask], max_length: int, pad_id: int | None
    ) -> None:
        """`max_length` counts all tokens of a row, special ones too."""
        self.max_length = max_length
        self.pad_id = pad_id
        self.eos_id = _token_id(source, "eos_token")
        names = source.config.get("model_input_names")
        self._has_type_ids = not isinstance(names, list) or "token_type_ids" in names
        self._cuts_left = task.truncation_side == "left"
        self._tokenizer = source.tokenizer
        special = self._tokenizer.num_special_tokens_to_add(task.truncation == "only_second")
        if max_length <= special:
            raise LoadError(
                f"max_length is {max_length}, but {special} special tokens alone fill that."
                " Set a larger max_length."
            )
        # The file may carry the truncation and padding of whoever saved it last.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(
            max_length, strategy=task.truncation, direction=task.truncation_side
        )

    def encode(self, entries: Sequence[TextInput]) -> list[Encoding | PredictionError]:
        """Tokenise each entry. One that cannot be cut to size is an error of its own."""
        rows = [self._row(entry) for entry in entries]
        try:
            encodings = self._tokenizer.encode_batch([row for row, _ in rows])
        except Exception:  # noqa: BLE001 - the library raises plain Exception; sorted out one by one
            return [self._encode_alone(row, cut) for row, cut in rows]
        return [
            self._to_record(encoding, cut)
            for encoding, (_, cut) in zip(encodings, rows, strict=True)
        ]

    def decode_after(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """The text of tokens that follow a prompt's, without special ones.

        Decoded together with the prompt: some tokenizers drop the space before a first token.
        """
        before = self._decode(prompt)
        whole = self._decode([*prompt, *ids])
        return whole.removeprefix(before) if whole.startswith(before) else self._decode(ids)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def _row(self, entry: TextInput) -> tuple[str | tuple[str, str], bool]:
        """What the library encodes, and whether characters were cut off.

        The library gives an empty pair its separators; Transformers takes it for none.
        """
        limit = self.max_length * MAX_CHARS_PER_TOKEN
        cut = len(entry.text) > limit or len(entry.pair or "") > limit
        text = entry.text
        if cut:
            text = text[-limit:] if self._cuts_left else text[:limit]
        return ((text, entry.pair[:limit]) if entry.pair else text), cut

    def _encode_alone(self, row: str | tuple[str, str], cut: bool) -> Encoding | PredictionError:
        try:
            return self._to_record(self._tokenizer.encode_batch([row])[0], cut)
        except Exception as error:  # noqa: BLE001 - as above; its text is not passed on
            if "truncat" in str(error).lower():
                return PredictionError(
                    "Invalid input: the question alone is longer than the"
                    f" {self.max_length} tokens that the model reads. Shorten it.",
                    ErrorKind.INVALID_INPUT,
                )
            return PredictionError(
                f"Invalid input: the text cannot be tokenised ({type(error).__name__}).",
                ErrorKind.INVALID_INPUT,
            )

    def _to_record(self, encoding: "LibraryEncoding", cut: bool) -> Encoding:
        return Encoding(
            ids=encoding.ids,
            type_ids=encoding.type_ids if self._has_type_ids else [],
            tokens=encoding.tokens,
            offsets=encoding.offsets,
            words=encoding.word_ids,
            parts=encoding.sequence_ids,
            truncated=cut or bool(encoding.overflowing),
        )


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
    source = _find(model_dir, settings)
    _check_lower_case(source.tokenizer, settings)
    max_length = _max_length(settings, config, source.config)
    if issubclass(task, GenerationTask):
        positions = model_positions(config)
        # At least one token must fit behind a prompt.
        max_length = min(max_length, positions - 1) if positions else max_length
    return TextTokenizer(source, task, max_length, _pad_id(source, config))


def _find(model_dir: Path, settings: HandlerSettings) -> TokenizerSource:
    saved = model_dir / "tokenizer.json"
    if saved.is_file():
        return _from_file(saved, read_json_object(model_dir / "tokenizer_config.json"))
    tried = [f"tokenizer.json in the archive: not there (it has {_listing(model_dir)})"]
    if any((model_dir / name).is_file() for name in _VOCABULARIES):
        try:
            return _from_transformers(str(model_dir), settings, local=True)
        except Exception as error:  # noqa: BLE001 - any failure means: try the next source
            tried.append(f"the archive's vocabulary: {first_line(error)}")
    if settings.model_name:
        try:
            source = _from_hub(settings.model_name, settings)
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


def _from_file(path: Path, config: dict[str, object]) -> TokenizerSource:
    try:
        return TokenizerSource(Tokenizer.from_file(str(path)), config)
    except Exception as error:
        raise LoadError(f"tokenizer.json cannot be read: {first_line(error)}.") from error


def _from_hub(model_name: str, settings: HandlerSettings) -> TokenizerSource:
    """From the cache without asking the network where it is there, else from the hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fetch(file: str) -> Path:
        try:
            found = hf_hub_download(
                model_name, file, revision=settings.revision, local_files_only=True
            )
        except LocalEntryNotFoundError:
            found = hf_hub_download(model_name, file, revision=settings.revision)
        return Path(found)

    try:
        path = fetch("tokenizer.json")
    except Exception:  # noqa: BLE001 - the repository may have a vocabulary only
        return _from_transformers(model_name, settings, local=False)
    try:
        config = read_json_object(fetch("tokenizer_config.json"))
    except OSError:
        config = {}
    return _from_file(path, config)


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
        "eos_token": found.eos_token,
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
        _token_id(source, "pad_token"),
        saved.get("pad_id") if saved else None,
        source.tokenizer.token_to_id("[PAD]"),
        source.tokenizer.token_to_id("<pad>"),
        eos[0] if isinstance(eos, list) and eos else eos,
        _token_id(source, "eos_token"),
    ]
    return next((found for found in candidates if isinstance(found, int) and found >= 0), None)


def _token_id(source: TokenizerSource, name: str) -> int | None:
    token = source.config.get(name)
    if isinstance(token, dict):
        token = token.get("content")
    return source.tokenizer.token_to_id(token) if isinstance(token, str) else None


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
