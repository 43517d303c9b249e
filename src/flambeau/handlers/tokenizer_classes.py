"""What transformers 4.57.6 knew of each class of tokenizers, beside what lies in a model's folder.

A folder may leave much to its class: special tokens, whether pairs have token types, and settings
in `tokenizer_config.json` that outrank what `tokenizer.json` was saved with. Models were trained
with all of that, so that it is honoured here.
"""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors

_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


class TokenizerClass(msgspec.Struct, frozen=True):
    """One class: its special tokens by role, and how they are found in texts.

    `normalized`: roles whose tokens are looked for in the normalised text. `lstrip`: the mask takes
    the spaces before it. `type_ids`: the first text of a pair is told from the second.
    `pads_left`: short rows are filled up at their start.
    """

    special: dict[str, str] = {}
    normalized: frozenset[str] = frozenset()
    lstrip: bool = False
    type_ids: bool = False
    pads_left: bool = False

    def defaults(self) -> dict[str, object]:
        """What holds where `tokenizer_config.json` says nothing."""
        names = ["input_ids", *(["token_type_ids"] if self.type_ids else []), "attention_mask"]
        tokens = {f"{role}_token": token for role, token in self.special.items()}
        side = "left" if self.pads_left else "right"
        return {**tokens, "model_input_names": names, "padding_side": side}


_BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_ROBERTA = {
    "bos": "<s>",
    "eos": "</s>",
    "unk": "<unk>",
    "sep": "</s>",
    "pad": "<pad>",
    "cls": "<s>",
    "mask": "<mask>",
}
_ALBERT = {**_BERT, "bos": "[CLS]", "eos": "[SEP]", "unk": "<unk>", "pad": "<pad>"}
_GPT2 = dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")
_BYTE_LEVEL = frozenset(_ROLES) - {"mask"}

_WORD_PIECES = TokenizerClass(_BERT, type_ids=True)
_ROBERTA_KIND = TokenizerClass(_ROBERTA, _BYTE_LEVEL, lstrip=True)
_BART_KIND = TokenizerClass(_ROBERTA, frozenset(_ROLES), lstrip=True)

CLASSES: Mapping[str, TokenizerClass] = {
    "BertTokenizer": _WORD_PIECES,
    "ConvBertTokenizer": _WORD_PIECES,
    "ElectraTokenizer": _WORD_PIECES,
    "LayoutLMTokenizer": _WORD_PIECES,
    "LxmertTokenizer": _WORD_PIECES,
    "MobileBertTokenizer": _WORD_PIECES,
    "SqueezeBertTokenizer": _WORD_PIECES,
    "DistilBertTokenizer": TokenizerClass(_BERT),
    "MPNetTokenizer": TokenizerClass({**_ROBERTA, "unk": "[UNK]"}, lstrip=True),
    "RobertaTokenizer": _ROBERTA_KIND,
    "LongformerTokenizer": _ROBERTA_KIND,
    "BartTokenizer": _BART_KIND,
    "LEDTokenizer": _BART_KIND,
    "MvpTokenizer": _BART_KIND,
    "GPT2Tokenizer": TokenizerClass(_GPT2, _BYTE_LEVEL),
    "AlbertTokenizer": TokenizerClass(_ALBERT, lstrip=True, type_ids=True),
    "DebertaV2Tokenizer": TokenizerClass(
        {**_BERT, "bos": "[CLS]", "eos": "[SEP]"}, frozenset({"unk"}), type_ids=True
    ),
    "XLMRobertaTokenizer": TokenizerClass(_ROBERTA, lstrip=True),
    "T5Tokenizer": TokenizerClass({"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}),
    "MarianTokenizer": TokenizerClass({"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}),
    "LlamaTokenizer": TokenizerClass({"bos": "<s>", "eos": "</s>", "unk": "<unk>"}, pads_left=True),
    "PreTrainedTokenizer": TokenizerClass(type_ids=True),
}
"""By name, without the ending "Fast"."""

_CLASS_OF_MODEL_TYPE: Mapping[str, str] = {
    "albert": "AlbertTokenizer",
    "bart": "BartTokenizer",
    "bert": "BertTokenizer",
    "convbert": "ConvBertTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "distilbert": "DistilBertTokenizer",
    "electra": "ElectraTokenizer",
    "gpt2": "GPT2Tokenizer",
    "layoutlm": "LayoutLMTokenizer",
    "led": "LEDTokenizer",
    "llama": "LlamaTokenizer",
    "longformer": "LongformerTokenizer",
    "lxmert": "LxmertTokenizer",
    "marian": "MarianTokenizer",
    "mistral": "LlamaTokenizer",
    "mobilebert": "MobileBertTokenizer",
    "modernbert": "PreTrainedTokenizer",
    "mpnet": "MPNetTokenizer",
    "mt5": "T5Tokenizer",
    "mvp": "MvpTokenizer",
    "roberta": "RobertaTokenizer",
    "squeezebert": "SqueezeBertTokenizer",
    "t5": "T5Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "xlm-roberta-xl": "XLMRobertaTokenizer",
}


def class_name(tokenizer_config: Mapping[str, object], config: Mapping[str, object]) -> str:
    """The class of a model's tokenizer, or "" for one that is not known here.

    As AutoTokenizer: `tokenizer_class` of tokenizer_config.json, else of config.json, else by the
    model's type.
    """
    for named in (tokenizer_config.get("tokenizer_class"), config.get("tokenizer_class")):
        if isinstance(named, str):
            name = named.removesuffix("Fast")
            return name if name in CLASSES else ""
    return _CLASS_OF_MODEL_TYPE.get(str(config.get("model_type")), "")


def special_tokens(name: str, config: Mapping[str, Any]) -> list[AddedToken]:
    """The special tokens of a class with the settings of a folder, in the order of their roles.

    No name: those of the settings alone.
    """
    known = CLASSES[name] if name else TokenizerClass()
    found = []
    for role in _ROLES:
        token = config.get(f"{role}_token", known.special.get(role))
        if isinstance(token, dict):
            found.append(_added_token({**token, "special": True}))
        elif isinstance(token, str):
            lstrip = known.lstrip and role == "mask"
            normalized = role in known.normalized
            found.append(AddedToken(token, lstrip=lstrip, normalized=normalized, special=True))
    for token in config.get("additional_special_tokens") or []:
        fields = token if isinstance(token, dict) else {"content": str(token)}
        found.append(_added_token({**fields, "special": True}))
    return found


def honour(tokenizer: Tokenizer, name: str, config: Mapping[str, Any]) -> None:
    """Bring a tokenizer to what `tokenizer_config.json` says, as transformers 4.57.6 did."""
    if "[MASK]" in CLASSES[name].special.values() or name == "MPNetTokenizer":
        _honour_letter_case(tokenizer, name, config)
    _honour_first_space(tokenizer, name, config)
    if name == "LlamaTokenizer":
        add_first_and_last_token(tokenizer, config)
    _add_missing_tokens(tokenizer, name, config)


def _honour_letter_case(tokenizer: Tokenizer, name: str, config: Mapping[str, Any]) -> None:
    normalizer = tokenizer.normalizer
    if not isinstance(normalizer, normalizers.BertNormalizer):
        return
    chinese = normalizer.handle_chinese_chars
    if name != "MPNetTokenizer":
        chinese = config.get("tokenize_chinese_chars", True)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=normalizer.clean_text,
        handle_chinese_chars=chinese,
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )


def _honour_first_space(tokenizer: Tokenizer, name: str, config: Mapping[str, Any]) -> None:
    """Whether a text's first word has a space before it, and whether offsets count spaces in."""
    adds = config.get("add_prefix_space", False)
    splitter = tokenizer.pre_tokenizer
    if isinstance(splitter, pre_tokenizers.ByteLevel) and splitter.add_prefix_space != adds:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=bool(adds),
            trim_offsets=splitter.trim_offsets,
            use_regex=splitter.use_regex,
        )
    processor = tokenizer.post_processor
    if CLASSES[name] not in (_ROBERTA_KIND, _BART_KIND) or not isinstance(
        processor, processors.RobertaProcessing
    ):
        return
    state = json.loads(processor.__getstate__())
    tokenizer.post_processor = processors.RobertaProcessing(
        tuple(state["sep"]),
        tuple(state["cls"]),
        trim_offsets=config.get("trim_offsets", True),
        add_prefix_space=bool(adds),
    )


def add_first_and_last_token(tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    """Llama's `add_bos_token` and `add_eos_token`, which outrank what the file was saved with."""

    def used(role: str, default: bool) -> list[tuple[str, int]]:
        if not config.get(f"add_{role}_token", default):
            return []
        known = config.get(f"{role}_token", CLASSES["LlamaTokenizer"].special[role])
        token = str(known.get("content") if isinstance(known, dict) else known)
        index = tokenizer.token_to_id(token)
        return [] if index is None else [(token, index)]

    first, last = used("bos", True), used("eos", False)
    single, second = (
        " ".join(f"{token}:{place}" for token, _ in (*first, (text, 0), *last))
        for place, text in enumerate(("$A", "$B"))
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} {second}", special_tokens=[*first, *last]
    )


def _add_missing_tokens(tokenizer: Tokenizer, name: str, config: Mapping[str, Any]) -> None:
    """Add tokens that the settings list and name, and those of the class that are in the vocabulary.

    A token of the class alone that is not there would get an id that the model has not.
    """
    known = tokenizer.get_added_tokens_decoder()
    same = {repr(token) for token in known.values()}
    missing = [token for token in listed_tokens(config) if repr(token) not in same]
    contents = {token.content for token in (*known.values(), *missing)}
    named = {token.content for token in special_tokens("", config)}
    for token in special_tokens(name, config):
        in_vocabulary = tokenizer.token_to_id(token.content) is not None
        if token.content not in contents and (in_vocabulary or token.content in named):
            contents.add(token.content)
            missing.append(token)
    tokenizer.add_tokens(missing)


def listed_tokens(config: Mapping[str, Any]) -> list[AddedToken]:
    """The tokens of `added_tokens_decoder`, in the order of their ids."""
    listed: dict[str, dict[str, Any]] = config.get("added_tokens_decoder") or {}
    in_order = sorted(listed.items(), key=lambda item: int(item[0]))
    return [_added_token(fields) for _, fields in in_order]


def _added_token(fields: Mapping[str, Any]) -> AddedToken:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(fields["content"], **{flag: fields[flag] for flag in flags if flag in fields})
