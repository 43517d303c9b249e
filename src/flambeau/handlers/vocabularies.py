"""Tokenizers from the vocabulary files of older checkpoints, which have no `tokenizer.json`.

Each is the same, part by part, as the one that transformers 4.57.6 made of such files. What the
files do not say is in `tokenizer_config.json`, or as the tokenizer's class has it.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from flambeau.handlers.sentencepiece_model import (
    PieceKind,
    SentencePieceModel,
    read_sentencepiece_model,
)
from flambeau.handlers.tokenizer_classes import (
    add_first_and_last_token,
    listed_tokens,
    special_tokens,
)

_SPACE = "\u2581"
"""What SentencePiece writes for a space."""

_NEVER = -1e6
"""A score that no sum of others comes near."""

_FOREIGN = "\ue000"
"""A private character before pieces that texts must not be split into."""

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
    _frame(tokenizer, f"{first} $A {last}", f"{first} $A {last} $B:1 {last}:1")
    return tokenizer


def _mpnet(paths: list[Path], config: Config) -> Tokenizer:
    tokenizer = _word_pieces(paths, config)
    first, last = _token(config, "cls", "<s>"), _token(config, "sep", "</s>")
    _frame(tokenizer, f"{first} $A {last}", f"{first} $A {last} {last} $B:1 {last}:1")
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
        (last, _id(tokenizer, last)),
        (first, _id(tokenizer, first)),
        trim_offsets=config.get("trim_offsets", True),
        add_prefix_space=bool(config.get("add_prefix_space", False)),
    )
    return tokenizer


def _gpt2(paths: list[Path], config: Config) -> Tokenizer:
    tokenizer = _byte_pairs(paths, config)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if config.get("add_bos_token", False):
        first = _token(config, "bos", "<|endoftext|>")
        _frame(tokenizer, f"{first} $A", f"{first} $A $B:1")
    return tokenizer


def _albert(paths: list[Path], config: Config) -> Tokenizer:
    model = read_sentencepiece_model(paths[0])
    tokenizer = _unigrams(
        model, [(piece.text, _albert_score(piece.text, piece.score)) for piece in model.pieces]
    )
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not config.get("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if config.get("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    steps += [*_charsmap(model), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    _split_at_spaces(tokenizer, "always")
    _frame(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    return tokenizer


def _albert_score(text: str, score: float) -> float:
    """Pieces such as "3," are kept from being used: ALBERT splits the comma off a number."""
    return score - 100 if len(text) > 1 and text[-1] == "," and text[-2].isdigit() else score


def _deberta_v2(paths: list[Path], config: Config) -> Tokenizer:
    model = read_sentencepiece_model(paths[0])
    tokenizer = _unigrams(model, [(piece.text, piece.score) for piece in model.pieces])
    steps: list[Any] = [normalizers.Lowercase()] if config.get("do_lower_case", False) else []
    steps += [normalizers.Strip(), *_charsmap(model), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    _split_at_spaces(tokenizer, "always")
    splitters: list[Any] = [tokenizer.pre_tokenizer]
    if config.get("split_by_punct", False):
        splitters.insert(0, pre_tokenizers.Punctuation(behavior="isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splitters)
    _frame(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    return tokenizer


def _xlm_roberta(paths: list[Path], config: Config) -> Tokenizer:  # noqa: ARG001 - no settings
    model = read_sentencepiece_model(paths[0])
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = [(piece.text, piece.score) for piece in model.pieces[3:]]
    tokenizer = _unigrams(model, [*special, *pieces, ("<mask>", 0.0)], unk_id=3)
    tokenizer.normalizer = _sentence_normalizer(model)
    _split_at_spaces(tokenizer, "always")
    _frame(tokenizer, "<s> $A </s>", "<s> $A </s> </s> $B </s>")
    return tokenizer


def _t5(paths: list[Path], config: Config) -> Tokenizer:
    model = read_sentencepiece_model(paths[0])
    extra = [f"<extra_id_{index}>" for index in range(int(config.get("extra_ids", 100)))]
    pieces = [(piece.text, piece.score) for piece in model.pieces]
    tokenizer = _unigrams(model, [*pieces, *((token, 0.0) for token in reversed(extra))])
    tokenizer.normalizer = _sentence_normalizer(model)
    _split_at_spaces(tokenizer, _scheme(config))
    _frame(tokenizer, "$A </s>", "$A </s> $B </s>")
    tokenizer.add_tokens([AddedToken(token, special=True) for token in reversed(extra)])
    return tokenizer


def _marian(paths: list[Path], config: Config) -> Tokenizer:  # noqa: ARG001 - no settings
    """The source language's pieces, with the ids of a list that both languages share.

    Pieces that only the other language has are in the list to be read back, marked so that no text
    has them. Single characters are left: one that the source's model does not know stands for
    itself where the list has it.
    """
    model = read_sentencepiece_model(paths[0])
    ids: dict[str, int] = json.loads(paths[1].read_text(encoding="utf-8"))
    scores = {piece.text: piece.score for piece in model.pieces}
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError("the ids of vocab.json are not 0, 1, 2, …")
    languages = [token for token in tokens if token.startswith(">>") and token.endswith("<<")]
    own = {*scores, *languages, "<unk>", "</s>", "<pad>"}
    listed = [
        (token, scores.get(token, _NEVER))
        if token in own or len(token) == 1
        else (_FOREIGN + token, _NEVER)
        for token in tokens
    ]
    tokenizer = _unigrams(model, listed, unk_id=ids["<unk>"])
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(_FOREIGN, ""),
            *_charsmap(model),
            normalizers.Strip(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    _split_at_spaces(tokenizer, "always")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_FOREIGN, ""),
            tokenizer.decoder,
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=1),
        ]
    )
    _frame(tokenizer, "$A </s>", "$A $B </s>")
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in languages])
    return tokenizer


def _llama(paths: list[Path], config: Config) -> Tokenizer:
    model = read_sentencepiece_model(paths[0])
    pieces = [(piece.text, piece.score) for piece in model.pieces]
    vocabulary = {text: index for index, (text, _) in enumerate(pieces)}
    scored = [(text, 0.0 if index < 3 else score) for index, (text, score) in enumerate(pieces)]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges(vocabulary, dict(scored)),
            unk_token=model.unk_piece,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    _add_control_pieces(tokenizer, model)
    adds_space = config.get("add_prefix_space") is not False
    if _legacy(config):
        steps: list[Any] = [normalizers.Prepend(_SPACE)] if adds_space else []
        tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement=_SPACE, prepend_scheme=_scheme(config), split=False
        )
    parts: list[Any] = [
        decoders.Replace(_SPACE, " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
    ]
    tokenizer.decoder = decoders.Sequence(
        [*parts, *([decoders.Strip(content=" ", left=1)] if adds_space else [])]
    )
    add_first_and_last_token(tokenizer, config)
    return tokenizer


def merges(vocabulary: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """The pairs that a SentencePiece model merges, the best first.

    Its file has scores of pieces only: each way to split a piece into two pieces is a merge, which
    is as good as the piece that comes of it.
    """
    found: list[tuple[str, str, float]] = []
    for piece, score in scores.items():
        pairs = [
            (piece[:index], piece[index:])
            for index in range(1, len(piece))
            if piece[:index] in vocabulary and piece[index:] in vocabulary
        ]
        pairs.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        found += [(left, right, score) for left, right in pairs]
    found.sort(key=lambda merge: (merge[2], len(merge[0]), len(merge[1])), reverse=True)
    return [(left, right) for left, right, _ in found]


def _unigrams(
    model: SentencePieceModel, vocabulary: list[tuple[str, float]], unk_id: int | None = None
) -> Tokenizer:
    if model.byte_pairs:
        raise ValueError("the SentencePiece model merges byte pairs; unigrams were expected")
    unk_id = model.unk_id if unk_id is None else unk_id
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=unk_id, byte_fallback=False))
    _add_control_pieces(tokenizer, model)
    return tokenizer


def _add_control_pieces(tokenizer: Tokenizer, model: SentencePieceModel) -> None:
    tokenizer.add_tokens(
        [
            AddedToken(piece.text, normalized=False, special=piece.kind == PieceKind.CONTROL)
            for piece in model.pieces
            if piece.kind in (PieceKind.CONTROL, PieceKind.USER_DEFINED)
        ]
    )


def _charsmap(model: SentencePieceModel) -> list[Any]:
    return [normalizers.Precompiled(model.charsmap)] if model.charsmap else []


def _sentence_normalizer(model: SentencePieceModel) -> Any:
    return normalizers.Sequence(
        [
            *_charsmap(model),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), _SPACE),
        ]
    )


def _split_at_spaces(tokenizer: Tokenizer, scheme: Any) -> None:
    """Words begin with their space; `scheme` says when a text's first word gets one."""
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme=scheme)


def _legacy(config: Config) -> bool:
    """Whether the word behind a special token gets a space, as in the first versions."""
    return config.get("legacy") is not False


def _scheme(config: Config) -> str:
    if config.get("add_prefix_space") is False:
        return "never"
    return "always" if _legacy(config) else "first"


def _frame(tokenizer: Tokenizer, single: str, pair: str) -> None:
    """Put special tokens around a text and a pair; what has no token type of its own has type 0."""
    used = {token.split(":")[0] for token in pair.split() if not token.startswith("$")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[(token, _id(tokenizer, token)) for token in sorted(used)],
    )


def _token(config: Config, role: str, default: str) -> str:
    token = config.get(f"{role}_token", default)
    return str(token.get("content") if isinstance(token, dict) else token)


def _id(tokenizer: Tokenizer, token: str) -> int:
    index = tokenizer.token_to_id(token)
    if index is None:
        raise ValueError(f"the vocabulary has no {token}")
    return index


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
    "AlbertTokenizer": (("spiece.model",), _albert),
    "DebertaV2Tokenizer": (("spm.model",), _deberta_v2),
    "XLMRobertaTokenizer": (("sentencepiece.bpe.model",), _xlm_roberta),
    "T5Tokenizer": (("spiece.model",), _t5),
    "MarianTokenizer": (("source.spm", "vocab.json"), _marian),
    "LlamaTokenizer": (("tokenizer.model",), _llama),
}
"""The files of a class, and what builds its tokenizer from them."""
