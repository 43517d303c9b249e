"""Tiny models with random weights and real tokenizers, made in a moment and without a network.

They answer nonsense, but through the real libraries: every layer, file name and tokenizer step is
that of the architecture.
"""

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flambeau.types import TaskName

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Architecture = Literal["bert", "roberta", "distilbert", "gpt2"]

MAX_POSITIONS = 128
"""The longest text, in tokens, that a tiny model reads."""

_WORDS = [
    "the",
    "a",
    "of",
    "and",
    "in",
    "is",
    "was",
    "lived",
    "on",
    "by",
    "with",
    "who",
    "what",
    "where",
    "when",
    "text",
    "model",
    "carries",
    "torch",
    "light",
    "Ada",
    "Lovelace",
    "London",
    "Jim",
    "Henson",
    "nice",
    "puppet",
    "Flambeau",
    "Paris",
    "question",
    "answer",
    "great",
    "terrible",
    "movie",
]
_HEADS: Mapping[TaskName, str] = {
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "zero-shot-classification": "ForSequenceClassification",
    "question-answering": "ForQuestionAnswering",
    "fill-mask": "ForMaskedLM",
    "text-ranking": "ForSequenceClassification",
    "sentence-similarity": "Model",
    "feature-extraction": "Model",
    "embeddings": "Model",
    "text-generation": "LMHeadModel",
}
_CLASSES = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert", "gpt2": "GPT2"}


def tiny_model(
    folder: Path,
    task: TaskName,
    architecture: Architecture = "bert",
    *,
    labels: list[str] | None = None,
    seed: int = 0,
) -> Path:
    """Write a model as `save_pretrained` would: weights, configuration and tokenizer.

    The weights depend on `seed` alone. `labels` become the configuration's `id2label`. Text
    generation needs `gpt2`. Returns `folder`, which is made if need be.
    """
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    byte_level = architecture in ("roberta", "gpt2")
    tokenizer = byte_level_tokenizer(architecture) if byte_level else _word_piece_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(_tokenizer_settings(architecture), indent=2)
    )
    options = _sizes(architecture, tokenizer.get_vocab_size())
    if task == "text-ranking":
        options["num_labels"] = 1
    elif labels and task not in ("question-answering", "fill-mask"):
        options["id2label"] = dict(enumerate(labels))
        options["label2id"] = {label: index for index, label in enumerate(labels)}
    name = _CLASSES[architecture]
    config = getattr(transformers, f"{name}Config")(**options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, name + _HEADS[task])(config)
        with torch.no_grad():
            # The initial weights are so small that every input would get nearly the same scores.
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder


def _sizes(architecture: Architecture, vocabulary: int) -> dict[str, Any]:
    """The configuration's sizes: 2 layers of width 32."""
    if architecture == "gpt2":
        return {
            "vocab_size": vocabulary,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": MAX_POSITIONS,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }
    if architecture == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    else:
        sizes = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
        }
    # RoBERTa counts positions from its padding's id + 1.
    positions = MAX_POSITIONS + 2 if architecture == "roberta" else MAX_POSITIONS
    sizes |= {"vocab_size": vocabulary, "max_position_embeddings": positions}
    if architecture == "roberta":
        sizes |= {"type_vocab_size": 1, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    return sizes


def _tokenizer_settings(architecture: Architecture) -> dict[str, object]:
    classes = {"bert": "BertTokenizer", "distilbert": "DistilBertTokenizer"}
    if architecture in classes:
        special = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
        extra: dict[str, object] = {"do_lower_case": False}
        name = classes[architecture]
    elif architecture == "roberta":
        special = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
        special |= {"cls": "<s>", "sep": "</s>"}
        extra = {"add_prefix_space": False, "model_input_names": ["input_ids", "attention_mask"]}
        name = "RobertaTokenizer"
    else:
        special = dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")
        extra = {"add_prefix_space": False, "model_input_names": ["input_ids", "attention_mask"]}
        name = "GPT2Tokenizer"
    tokens: dict[str, object] = {f"{key}_token": token for key, token in special.items()}
    return tokens | extra | {"tokenizer_class": name, "model_max_length": MAX_POSITIONS}


def _word_piece_tokenizer() -> "Tokenizer":
    """BERT's tokenizer over a few words and all printable ASCII characters."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = [char for char in string.printable if not char.isspace()]
    pieces = [f"##{char}" for char in string.ascii_letters + string.digits]
    entries = dict.fromkeys([*special, *characters, *pieces, *_WORDS])
    vocabulary = {token: index for index, token in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - not a secret
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    tokenizer.add_special_tokens(special)
    return tokenizer


def byte_level_tokenizer(architecture: Architecture) -> "Tokenizer":
    """GPT-2's or RoBERTa's tokenizer with merges learnt from a few words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    roberta = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    special = roberta if architecture == "roberta" else ["<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(_WORDS)] * 2, trainer)
    if architecture == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(
            ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
        )
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer
