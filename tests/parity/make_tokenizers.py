"""Trains the small tokenizers of the parity tests and saves them through transformers 4.57.6.

Run by hand, with the last transformers that had every text pipeline, and with sentencepiece:

    PYTHONPATH=. python tests/parity/make_tokenizers.py [family ...]

Each family's folder gets the vocabulary files that the family's first checkpoints had, and the
`tokenizer.json` that transformers 4.57.6 converts them to. Two runs train unlike vocabularies
(pieces of equal frequency come in any order), so all goldens have to be made anew after it.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
import transformers
from tokenizers import (
    AddedToken,
    BertWordPieceTokenizer,
    ByteLevelBPETokenizer,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tests.parity.families import FAMILIES, TOKENIZERS

CORPUS = Path(__file__).parent / "corpus.txt"
VOCABULARY = 420
BYTE_LEVEL_VOCABULARY = 520

# Full-width letters, ligatures, the non-breaking space and tabs, as sentencepiece's own rules fold
# them; its complete table alone would be 300 kB.
NORMALISATION = {
    "\N{FULLWIDTH LATIN CAPITAL LETTER A}": "A",
    "\N{FULLWIDTH LATIN SMALL LETTER D}": "d",
    "\N{FULLWIDTH LATIN SMALL LETTER A}": "a",
    "\N{LATIN SMALL LIGATURE FI}": "fi",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{NO-BREAK SPACE}": " ",
    "\N{IDEOGRAPHIC SPACE}": " ",
    "\t": " ",
    "\n": " ",
    "\r": " ",
    "\N{ZERO WIDTH SPACE}": " ",
    "e\N{COMBINING ACUTE ACCENT}": "\N{LATIN SMALL LETTER E WITH ACUTE}",
}


def lines() -> list[str]:
    return CORPUS.read_text().splitlines()


def word_pieces(folder: Path, special: Iterable[str], *, lower: bool) -> None:
    """vocab.txt."""
    trainer = BertWordPieceTokenizer(lowercase=lower)
    trainer.train_from_iterator(
        lines(), vocab_size=VOCABULARY, special_tokens=list(special), show_progress=False
    )
    trainer.save_model(str(folder))


def byte_level(folder: Path, special: Iterable[str]) -> None:
    """vocab.json and merges.txt."""
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(
        lines(),
        vocab_size=BYTE_LEVEL_VOCABULARY,
        special_tokens=list(special),
        show_progress=False,
    )
    trainer.save_model(str(folder))


def sentence_pieces(file: Path, **options: object) -> None:
    """A sentencepiece model with the normalisation above."""
    with tempfile.TemporaryDirectory() as temporary:
        rules = Path(temporary) / "rules.tsv"
        if options.pop("normalised", True):
            rules.write_text(
                "".join(
                    " ".join(f"{ord(char):X}" for char in source)
                    + "\t"
                    + " ".join(f"{ord(char):X}" for char in target)
                    + "\n"
                    for source, target in NORMALISATION.items()
                )
            )
            options["normalization_rule_tsv"] = str(rules)
        else:
            options["normalization_rule_name"] = "identity"
        text = Path(temporary) / "text"
        text.write_text(str(options.pop("text", CORPUS.read_text())))
        prefix = Path(temporary) / "model"
        settings: dict[str, object] = {
            "vocab_size": VOCABULARY,
            "character_coverage": 0.9995,
            "num_threads": 1,
            "minloglevel": 2,
        }
        settings |= options
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=str(prefix), **settings
        )
        shutil.copy(f"{prefix}.model", file)


def modern_bert() -> Tokenizer:
    """ModernBERT's: byte-level BPE within BERT's brackets, and runs of spaces as tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BYTE_LEVEL_VOCABULARY,
        special_tokens=["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines(), trainer)
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, special=True)])
    tokenizer.add_tokens(
        [AddedToken(" " * n, normalized=True, special=False) for n in range(24, 1, -1)]
    )
    first, last = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
        special_tokens=[("[CLS]", first), ("[SEP]", last)],
    )
    return tokenizer


BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
WORD_PIECES = {
    "bert": (BERT, True),
    "electra": (BERT, True),
    "distilbert": (BERT, False),
    "mpnet": (["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"], True),
}
"""Special tokens, and whether letters are made small."""

BYTE_LEVEL = {"roberta": ROBERTA, "bart": ROBERTA, "gpt2": ["<|endoftext|>"]}
SENTENCE_PIECES: dict[str, tuple[str, dict[str, object]]] = {
    "albert": (
        "spiece.model",
        {
            "pad_id": 0,
            "unk_id": 1,
            "bos_id": -1,
            "eos_id": -1,
            "control_symbols": ["[CLS]", "[SEP]"],
            "user_defined_symbols": ["[MASK]"],
        },
    ),
    "deberta-v2": (
        "spm.model",
        {
            "pad_id": 0,
            "bos_id": 1,
            "eos_id": 2,
            "unk_id": 3,
            "pad_piece": "[PAD]",
            "bos_piece": "[CLS]",
            "eos_piece": "[SEP]",
            "unk_piece": "[UNK]",
        },
    ),
    "xlm-roberta": ("sentencepiece.bpe.model", {"unk_id": 0, "bos_id": 1, "eos_id": 2}),
    "t5": ("spiece.model", {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}),
    "llama": (
        "tokenizer.model",
        {
            "normalised": False,
            "model_type": "bpe",
            "byte_fallback": True,
            "split_digits": True,
            "allow_whitespace_only_pieces": True,
            "remove_extra_whitespaces": False,
            "vocab_size": 600,
        },
    ),
}


def write_vocabulary(family: str, folder: Path) -> None:
    """The files that a family's first checkpoints had."""
    if family in WORD_PIECES:
        special, lower = WORD_PIECES[family]
        word_pieces(folder, special, lower=lower)
    elif family in BYTE_LEVEL:
        byte_level(folder, BYTE_LEVEL[family])
    elif family in SENTENCE_PIECES:
        name, options = SENTENCE_PIECES[family]
        sentence_pieces(folder / name, **options)
    elif family == "marian":
        marian(folder)
    else:
        modern_bert().save(str(folder / "tokenizer.json"))


def marian(folder: Path) -> None:
    """Marian's: a model for each language, and one list of ids for the pieces of both."""
    for name, first in (("source.spm", 0), ("target.spm", 1)):
        kept = "\n".join(lines()[first::2])
        sentence_pieces(folder / name, text=kept, vocab_size=260, unk_id=1, bos_id=-1, eos_id=0)
    pieces: dict[str, int] = {}
    for token in [
        "</s>",
        "<unk>",
        *_pieces(folder / "source.spm"),
        *_pieces(folder / "target.spm"),
    ]:
        pieces.setdefault(token, len(pieces))
    for token in (">>fr<<", ">>de<<", "<pad>"):
        pieces[token] = len(pieces)
    (folder / "vocab.json").write_text(json.dumps(pieces, ensure_ascii=False) + "\n")


def _pieces(file: Path) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
    return [processor.id_to_piece(index) for index in range(processor.get_piece_size())]


def main() -> None:
    """Write the families' folders anew."""
    for family in sys.argv[1:] or FAMILIES:
        settings = FAMILIES[family]
        folder = TOKENIZERS / family
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_vocabulary(family, folder)
        config = {**settings.tokenizer, "tokenizer_class": settings.tokenizer_class}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
        with tempfile.TemporaryDirectory() as temporary:
            # AutoTokenizer takes the class from the model's type where the file names none.
            (folder / "config.json").write_text(json.dumps({"model_type": family}))
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, use_fast=True)
            (folder / "config.json").unlink()
            if not tokenizer.is_fast:
                continue
            tokenizer.save_pretrained(temporary)
            saved = Path(temporary) / "tokenizer.json"
            # Compact: only programs read it.
            text = json.dumps(json.loads(saved.read_text()), ensure_ascii=False)
            (folder / "tokenizer.json").write_text(text + "\n")
        print(family, type(tokenizer).__name__, len(tokenizer))


if __name__ == "__main__":
    main()
