"""A tokenizer as it was found, and what its vocabulary says."""

from collections.abc import Sequence

import msgspec
from tokenizers import Tokenizer

_JOINED = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"),
    (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip
"""What `clean_up_tokenization_spaces` stands for, in Transformers' order."""


class TokenizerSource(msgspec.Struct, frozen=True):
    """A tokenizer as it was found, and its `tokenizer_config.json`."""

    tokenizer: Tokenizer
    config: dict[str, object]

    def token_id(self, name: str) -> int | None:
        """The id of a special token by its name there, such as `pad_token`."""
        token = self.config.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        return self.tokenizer.token_to_id(token) if isinstance(token, str) else None

    @property
    def pads_left(self) -> bool:
        """Whether short rows are filled up at their start, as XLNet's are."""
        side = self.config.get("padding_side")
        if side is None:
            return str(self.config.get("tokenizer_class")).startswith("XLNet")
        return side == "left"


class TokenizerVocabulary:
    """What tasks may ask of a tokenizer: see `tasks.base.Vocabulary`."""

    def __init__(self, source: TokenizerSource) -> None:
        self._tokenizer = source.tokenizer
        self._cleans = bool(source.config.get("clean_up_tokenization_spaces"))
        self.mask_id = _special_id(source, "mask_token", "[MASK]", "<mask>")
        self.mask = None if self.mask_id is None else self.token(self.mask_id)
        self.pad_id = _special_id(source, "pad_token", "[PAD]", "<pad>")
        # Llama's <s> begins a text and does not stand for it: its configuration names it so.
        begins = "bos_token" in source.config
        self.cls_id = _special_id(source, "cls_token", "[CLS]", *(() if begins else ("<s>",)))
        self.unknown_id = _special_id(source, "unk_token", "[UNK]", "<unk>")
        self._decoder = source.tokenizer.decoder
        model = source.tokenizer.model
        self.marks_subwords = bool(getattr(model, "continuing_subword_prefix", None))

    def find(self, token: str) -> int | None:
        """The id of a token, spelled as in the vocabulary."""
        return self._tokenizer.token_to_id(token)

    def first(self, text: str) -> int | None:
        """The first token of a text, special ones aside."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids[0] if ids else None

    def token(self, index: int) -> str:
        """The token with this id; "" where there is none."""
        return self._tokenizer.id_to_token(index) or ""

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of tokens, with the spaces of English joined where the tokenizer asks for it."""
        text = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)
        return joined(text) if self._cleans else text

    def spell(self, tokens: Sequence[str]) -> str:
        """The text that tokens stand for, as the tokenizer's decoder writes it."""
        if self._decoder is None:
            return " ".join(tokens)
        text: str = self._decoder.decode(list(tokens))
        return text


def _special_id(source: TokenizerSource, name: str, *usual: str) -> int | None:
    """A special token's id: as the configuration says, else by its usual spellings."""
    if name in source.config:
        return source.token_id(name)
    ids = map(source.tokenizer.token_to_id, usual)
    return next((found for found in ids if found is not None), None)


def joined(text: str) -> str:
    """A text with the spaces of English joined."""
    for apart, joined in _JOINED:
        text = text.replace(apart, joined)
    return text
