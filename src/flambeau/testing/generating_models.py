"""Tiny models that generate, with random weights: decoders, and encoders with a decoder."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flambeau.testing.models import MAX_POSITIONS, byte_level_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Generator = Literal["gpt2", "llama", "qwen2", "mistral", "t5", "bart", "mbart"]

SLIDING_WINDOW = 16
"""How many tokens back the tiny Mistral looks."""
LANGUAGES = ["en_XX", "fr_XX", "ro_RO"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('there is no role ' + message.role) }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_CLASSES: dict[Generator, tuple[str, str]] = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel"),
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "mistral": ("MistralConfig", "MistralForCausalLM"),
    "t5": ("T5Config", "T5ForConditionalGeneration"),
    "bart": ("BartConfig", "BartForConditionalGeneration"),
    "mbart": ("MBartConfig", "MBartForConditionalGeneration"),
}


def tiny_generator(
    folder: Path,
    architecture: Generator,
    *,
    chat: bool = False,
    positions: int = MAX_POSITIONS,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Write a model as `save_pretrained` would; `chat`: with a chat template.

    Weights depend on `seed` alone. `config` are more fields of its configuration. Returns `folder`.
    """
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(architecture)
    tokenizer.save(str(folder / "tokenizer.json"))
    decoder = architecture in ("gpt2", "llama", "qwen2", "mistral")
    special = dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")
    if not decoder:
        special = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
    saved: dict[str, object] = {f"{name}_token": token for name, token in special.items()}
    if architecture not in ("gpt2", "bart", "mbart"):  # their own classes expect SentencePiece's
        saved["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(
        json.dumps(saved | {"model_max_length": positions})
    )
    if chat:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    names = _CLASSES[architecture]
    options = _sizes(architecture, tokenizer.get_vocab_size(), positions) | config
    made = getattr(transformers, names[0])(**options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, names[1])(made)
        with torch.no_grad():
            # With weights as small as at first, every prompt would go on with one token.
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


def _tokenizer(architecture: Generator) -> "Tokenizer":
    from tokenizers import processors

    if architecture in ("gpt2", "llama", "qwen2", "mistral"):
        tokenizer = byte_level_tokenizer("gpt2")
        tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
        return tokenizer
    tokenizer = byte_level_tokenizer("roberta")
    template = "$A </s>"
    special = [("</s>", 2)]
    if architecture == "mbart":
        special.append(("en_XX", tokenizer.get_vocab_size()))
        tokenizer.add_special_tokens(LANGUAGES)
        template += " en_XX"
    if architecture != "bart":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=special
        )
    return tokenizer


def _sizes(architecture: Generator, vocabulary: int, positions: int) -> dict[str, Any]:
    """The configuration's sizes: 2 layers of width 32."""
    if architecture == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": positions}
        return sizes | {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0}
    if architecture in ("llama", "qwen2", "mistral"):
        sizes = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": positions,
        }
        if architecture == "mistral":
            sizes["sliding_window"] = SLIDING_WINDOW
        return sizes | {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0}
    special = {"vocab_size": vocabulary, "pad_token_id": 1, "eos_token_id": 2}
    if architecture == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        return sizes | special | {"decoder_start_token_id": 1}
    sizes = {"d_model": 32, "max_position_embeddings": positions}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_layers": 2, f"{part}_attention_heads": 4, f"{part}_ffn_dim": 64}
    return (
        sizes | special | {"bos_token_id": 0, "decoder_start_token_id": 2, "forced_eos_token_id": 2}
    )
