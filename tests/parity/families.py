"""The architectures of the parity tests: tiny configurations, and what their tokenizers are told.

Imported under transformers 4.57.6 (which makes the goldens) and under the project's own version.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKENIZERS = Path(__file__).parent / "tokenizers"

MAX_LENGTH = 64
"""Tokens that the encoders read: short, so that long texts need few tokens for several windows."""

_BODY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_CHAT = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + ' ; ' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
_ROBERTA_TOKENS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True)
class Family:
    """One architecture. `tokenizer` is what stands in its tokenizer_config.json."""

    tokenizer_class: str
    tokenizer: dict[str, Any]
    config: dict[str, Any]


FAMILIES: dict[str, Family] = {
    "bert": Family(
        "BertTokenizer",
        {
            "do_lower_case": True,
            "model_max_length": MAX_LENGTH,
            "clean_up_tokenization_spaces": True,
        },
        {**_BODY, "max_position_embeddings": MAX_LENGTH, "pad_token_id": 0},
    ),
    "distilbert": Family(
        "DistilBertTokenizer",
        {"do_lower_case": False, "model_max_length": MAX_LENGTH},
        {
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 48,
            "max_position_embeddings": MAX_LENGTH,
            "pad_token_id": 0,
        },
    ),
    "electra": Family(
        "ElectraTokenizer",
        {"do_lower_case": True, "model_max_length": MAX_LENGTH},
        {**_BODY, "embedding_size": 16, "max_position_embeddings": MAX_LENGTH, "pad_token_id": 0},
    ),
    "mpnet": Family(
        "MPNetTokenizer",
        {"do_lower_case": True, "model_max_length": MAX_LENGTH},
        {**_BODY, **_ROBERTA_TOKENS, "max_position_embeddings": MAX_LENGTH + 2},
    ),
    "roberta": Family(
        "RobertaTokenizer",
        {"add_prefix_space": False, "model_max_length": MAX_LENGTH},
        {
            **_BODY,
            **_ROBERTA_TOKENS,
            "max_position_embeddings": MAX_LENGTH + 2,
            "type_vocab_size": 1,
        },
    ),
    "xlm-roberta": Family(
        "XLMRobertaTokenizer",
        {"model_max_length": MAX_LENGTH},
        {
            **_BODY,
            **_ROBERTA_TOKENS,
            "max_position_embeddings": MAX_LENGTH + 2,
            "type_vocab_size": 1,
        },
    ),
    "albert": Family(
        "AlbertTokenizer",
        {"do_lower_case": True, "keep_accents": False, "model_max_length": MAX_LENGTH},
        {
            **_BODY,
            "embedding_size": 16,
            "num_hidden_groups": 1,
            "max_position_embeddings": MAX_LENGTH,
            "pad_token_id": 0,
        },
    ),
    "deberta-v2": Family(
        "DebertaV2Tokenizer",
        {"do_lower_case": False, "model_max_length": MAX_LENGTH},
        {
            **_BODY,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_buckets": 16,
            "max_relative_positions": -1,
            "position_biased_input": False,
            "type_vocab_size": 0,
            "max_position_embeddings": MAX_LENGTH,
            "pad_token_id": 0,
        },
    ),
    "modernbert": Family(
        "PreTrainedTokenizerFast",
        {
            "model_max_length": MAX_LENGTH,
            "clean_up_tokenization_spaces": True,
            "model_input_names": ["input_ids", "attention_mask"],
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "mask_token": "[MASK]",
        },
        {
            **_BODY,
            "num_hidden_layers": 3,
            "global_attn_every_n_layers": 3,
            "local_attention": 16,
            "max_position_embeddings": MAX_LENGTH,
            "cls_token_id": 1,
            "bos_token_id": 1,
            "sep_token_id": 2,
            "eos_token_id": 2,
            "pad_token_id": 3,
        },
    ),
    "gpt2": Family(
        "GPT2Tokenizer",
        {"add_prefix_space": False, "model_max_length": 96},
        {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 96,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
    "llama": Family(
        "LlamaTokenizer",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "legacy": False,
            "model_max_length": 96,
            "clean_up_tokenization_spaces": False,
            "chat_template": _CHAT,
        },
        {
            **_BODY,
            "num_key_value_heads": 2,
            "max_position_embeddings": 96,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "t5": Family(
        "T5Tokenizer",
        {"extra_ids": 8, "model_max_length": 96},
        {
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "relative_attention_num_buckets": 8,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "decoder_start_token_id": 0,
        },
    ),
    "bart": Family(
        "BartTokenizer",
        {"add_prefix_space": False, "model_max_length": 96},
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 96,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": 2,
        },
    ),
    "marian": Family(
        "MarianTokenizer",
        {"source_lang": "en", "target_lang": "fr", "model_max_length": 96},
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 96,
            "activation_function": "swish",
            "static_position_embeddings": True,
            "scale_embedding": True,
            "share_encoder_decoder_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
}
