"""Tokenizers from the vocabulary files of older checkpoints, which have no `tokenizer.json`.

Each is the same, part by part, as the one that transformers 4.57.6 made of such files. What the
files do not say is in `tokenizer_config.json`, or as the tokenizer's class has it.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from flambeau.handlers import sentencepiece_vocabularies as sentencepiece
from flambeau.handlers.token_frames import frame, token_id
from flambeau.handlers.tokenizer_classes import listed_tokens, special_tokens

OWN_FIRST_SPACE = frozenset({"LlamaTokenizer", "T5Tokenizer"})
"""Classes whose `add_prefix_space` decides how the tokenizer is built."""

Config = Mapping[str, Any]


def build(name: str, folder: Path, config: Config) -> Tokenizer | None:
    """The tokenizer of class `name` from the files in `folder`, or None where they are not there.

    Raises `LoadError`, `ValueError` and the like for files that are not what their names say.
    """
    files, builder = _BUILDERS.get(name, ((), None))
    paths = [folder / file for file in files]
    if builder is None or not all(path.is_file() for path in paths):
        return None
    tokenizer = builder(paths, config)
    tokenizer.add_tokens([*listed_tokens(config), *special_tokens(name, config)])
    return tokenizer


def _word_pieces(paths: list[Path], config: Config) -> Tokenizer:
    with paths[0].open(encoding="utf-8") as lines:
        vocabulary = {line.rstrip("\n"): index for index, line in enumerate(lines)}
    unknown = _token(config, "unk", "[UNK]")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _bert(paths: list[Path], config: Config) -> Tokenizer:
    tokenizer = _word_pieces(paths, config)
    first, last = _token(config, "cls", "[CLS]"), _token(config, "sep", "[SEP]")
    frame(tokenizer, f"{first} $A {last}", f"{first} $A {last} $B:1 {last}:1")
    return tokenizer


def _mpnet(paths: list[Path], config: Config) -> Tokenizer:
    tokenizer = _word_pieces(paths, config)
    first, last = _token(config, "cls", "<s>"), _token(config, "sep", "</s>")
    frame(tokenizer, f"{first} $A {last}", f"{first} $A {last} {last} $B:1 {last}:1")
    return tokenizer


def _byte_pairs(paths: list[Path], config: Config) -> Tokenizer:
    vocabulary = json.loads(paths[0].read_text(encoding="utf-8"))
    # The first line is a comment, the last one empty.
    lines = paths[1].read_text(encoding="utf-8").split("\n")[1:-1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    model = models.BPE(
        vocab=vocabulary,
        merges=merges,
        continuing_subword_prefix="",
        end_of_word_suffix="",
        fuse_unk=False,
    )
    tokenizer = Tokenizer(model)
    adds_space = bool(config.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=adds_space)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _roberta(paths: list[Path], config: Config) -> Tokenizer:
    tokenizer = _byte_pairs(paths, config)
    first, last = _token(config, "cls", "<s>"), _token(config, "sep", "</s>")
    tokenizer.post_processor = processors.RobertaProcessing(
        (last, token_id(tokenizer, last)),
        (first, token_id(tokenizer, first)),
        trim_offsets=config.get("trim_offsets", True),
        add_prefix_space=bool(config.get("add_prefix_space", False)),
    )
    return tokenizer


def _gpt2(paths: list[Path], config: Config) -> Tokenizer:
    tokenizer = _byte_pairs(paths, config)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if config.get("add_bos_token", False):
        first = _token(config, "bos", "<|endoftext|>")
        frame(tokenizer, f"{first} $A", f"{first} $A $B:1")
    return tokenizer


def _token(config: Config, role: str, default: str) -> str:
    token = config.get(f"{role}_token", default)
    return str(token.get("content") if isinstance(token, dict) else token)


_Builder = Callable[[list[Path], Config], Tokenizer]
_BUILDERS: Mapping[str, tuple[tuple[str, ...], _Builder | None]] = {
    **dict.fromkeys(
        (
            "BertTokenizer",
            "ConvBertTokenizer",
            "DistilBertTokenizer",
            "ElectraTokenizer",
            "LayoutLMTokenizer",
            "LxmertTokenizer",
            "MobileBertTokenizer",
            "SqueezeBertTokenizer",
        ),
        (("vocab.txt",), _bert),
    ),
    "MPNetTokenizer": (("vocab.txt",), _mpnet),
    **dict.fromkeys(
        (
            "BartTokenizer",
            "LEDTokenizer",
            "LongformerTokenizer",
            "MvpTokenizer",
            "RobertaTokenizer",
        ),
        (("vocab.json", "merges.txt"), _roberta),
    ),
    "GPT2Tokenizer": (("vocab.json", "merges.txt"), _gpt2),
    "AlbertTokenizer": (("spiece.model",), sentencepiece.albert),
    "DebertaV2Tokenizer": (("spm.model",), sentencepiece.deberta_v2),
    "XLMRobertaTokenizer": (("sentencepiece.bpe.model",), sentencepiece.xlm_roberta),
    "T5Tokenizer": (("spiece.model",), sentencepiece.t5),
    "MarianTokenizer": (("source.spm", "vocab.json"), sentencepiece.marian),
    "LlamaTokenizer": (("tokenizer.model",), sentencepiece.llama),
}
"""The files of a class, and what builds its tokenizer from them."""
