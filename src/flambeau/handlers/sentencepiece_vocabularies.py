"""Tokenizers from SentencePiece models, the same as transformers 4.57.6 made of them."""

import json
from collections.abc import Mapping
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
)

from flambeau.handlers.sentencepiece_model import (
    PieceKind,
    SentencePieceModel,
    read_sentencepiece_model,
)
from flambeau.handlers.token_frames import frame
from flambeau.handlers.tokenizer_classes import add_first_and_last_token

Config = Mapping[str, Any]

_SPACE = "\u2581"
"""What SentencePiece writes for a space."""

_NEVER = -1e6
"""A score that no sum of others comes near."""

_FOREIGN = "\ue000"
"""A private character before pieces that texts must not be split into."""


def albert(paths: list[Path], config: Config) -> Tokenizer:
    """ALBERT: accents off and letters small unless told otherwise."""
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
    frame(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    return tokenizer


def _albert_score(text: str, score: float) -> float:
    """Pieces such as "3," are kept from being used: ALBERT splits the comma off a number."""
    return score - 100 if len(text) > 1 and text[-1] == "," and text[-2].isdigit() else score


def deberta_v2(paths: list[Path], config: Config) -> Tokenizer:
    """DeBERTa-v2 and v3."""
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
    frame(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    return tokenizer


def xlm_roberta(paths: list[Path], config: Config) -> Tokenizer:  # noqa: ARG001 - no settings
    """XLM-R: fairseq's special tokens before the pieces, the mask behind them."""
    model = read_sentencepiece_model(paths[0])
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = [(piece.text, piece.score) for piece in model.pieces[3:]]
    tokenizer = _unigrams(model, [*special, *pieces, ("<mask>", 0.0)], unk_id=3)
    tokenizer.normalizer = _sentence_normalizer(model)
    _split_at_spaces(tokenizer, "always")
    frame(tokenizer, "<s> $A </s>", "<s> $A </s> </s> $B </s>")
    return tokenizer


def t5(paths: list[Path], config: Config) -> Tokenizer:
    """T5: its extra ids behind the pieces."""
    model = read_sentencepiece_model(paths[0])
    extra = [f"<extra_id_{index}>" for index in range(int(config.get("extra_ids", 100)))]
    pieces = [(piece.text, piece.score) for piece in model.pieces]
    tokenizer = _unigrams(model, [*pieces, *((token, 0.0) for token in reversed(extra))])
    tokenizer.normalizer = _sentence_normalizer(model)
    _split_at_spaces(tokenizer, _scheme(config))
    frame(tokenizer, "$A </s>", "$A </s> $B </s>")
    tokenizer.add_tokens([AddedToken(token, special=True) for token in reversed(extra)])
    return tokenizer


def marian(paths: list[Path], config: Config) -> Tokenizer:  # noqa: ARG001 - no settings
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
            decoders.Replace(Regex("^ +| +$"), ""),
        ]
    )
    frame(tokenizer, "$A </s>", "$A $B </s>")
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in languages])
    return tokenizer


def llama(paths: list[Path], config: Config) -> Tokenizer:
    """Llama: byte pairs, and bytes for what is in no piece."""
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
