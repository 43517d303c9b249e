"""The models of the parity tests, by name."""

from tests.parity.models import ModelSpec, labelled

SENTIMENT = labelled("negative", "neutral", "positive")
TOPICS = labelled("politics", "economy", "sports", "science", "other")
TOXICITY = labelled(
    "toxic", "insult", "threat", "obscene", problem_type="multi_label_classification"
)
ENTITIES = labelled("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-MISC", "I-MISC")
PLAIN_ENTITIES = labelled("O", "PER", "LOC", "MISC")
PARTS_OF_SPEECH = labelled("NOUN", "VERB", "ADJ", "PUNCT", "PROPN-X")
INFERENCE = labelled("contradiction", "neutral", "entailment")
TWO_WAY_INFERENCE = labelled("entailment", "not_entailment")
UNNAMED_INFERENCE = labelled("no", "perhaps", "yes")

# Separate weights for the words that come out: tied ones make a small model repeat itself.
_UNTIED = {"tie_word_embeddings": False}
_T5_TASKS = {
    **_UNTIED,
    "task_specific_params": {
        "summarization": {
            "prefix": "summarize: ",
            "num_beams": 3,
            "min_length": 4,
            "max_length": 20,
            "length_penalty": 2.0,
            "no_repeat_ngram_size": 3,
            "early_stopping": True,
        },
        "translation": {"prefix": "translate English to French: ", "max_length": 24},
    },
}
_T5_END = {
    "pad_token_id": 0,
    "eos_token_id": [1, *range(20, 420, 20)],  # so many that texts end at all
    "decoder_start_token_id": 0,
}
_BART_END = {
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": [2, *range(30, 510, 30)],
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}

MODELS: dict[str, ModelSpec] = {
    # text-classification
    "bert-topics": ModelSpec("bert", "text-classification", TOPICS),
    "distilbert-sentiment": ModelSpec("distilbert", "text-classification", SENTIMENT),
    "roberta-toxicity": ModelSpec("roberta", "text-classification", TOXICITY),
    "xlm-roberta-topics": ModelSpec("xlm-roberta", "text-classification", TOPICS),
    "albert-similarity": ModelSpec(
        "albert", "text-classification", labelled("similarity", problem_type="regression")
    ),
    "electra-scale": ModelSpec(
        "electra", "text-classification", labelled("joy", "anger", problem_type="regression")
    ),
    "mpnet-spam": ModelSpec("mpnet", "text-classification", labelled("spam")),
    "deberta-v2-topics": ModelSpec("deberta-v2", "text-classification", TOPICS),
    "modernbert-topics": ModelSpec("modernbert", "text-classification", TOPICS),
    "gpt2-sentiment": ModelSpec(
        "gpt2", "text-classification", {**SENTIMENT, "pad_token_id": 0}, seed="1"
    ),
    "llama-sentiment": ModelSpec("llama", "text-classification", {**SENTIMENT, "pad_token_id": 2}),
    # token-classification
    "bert-entities": ModelSpec("bert", "token-classification", ENTITIES),
    "distilbert-entities": ModelSpec("distilbert", "token-classification", PLAIN_ENTITIES),
    "electra-speech": ModelSpec("electra", "token-classification", PARTS_OF_SPEECH),
    "mpnet-entities": ModelSpec("mpnet", "token-classification", ENTITIES),
    "roberta-entities": ModelSpec("roberta", "token-classification", ENTITIES),
    "xlm-roberta-entities": ModelSpec("xlm-roberta", "token-classification", ENTITIES),
    "albert-entities": ModelSpec("albert", "token-classification", PLAIN_ENTITIES),
    "deberta-v2-entities": ModelSpec("deberta-v2", "token-classification", ENTITIES),
    "modernbert-entities": ModelSpec("modernbert", "token-classification", ENTITIES),
    # question-answering
    "bert-answers": ModelSpec("bert", "question-answering"),
    "distilbert-answers": ModelSpec("distilbert", "question-answering"),
    "electra-answers": ModelSpec("electra", "question-answering"),
    "mpnet-answers": ModelSpec("mpnet", "question-answering"),
    "roberta-answers": ModelSpec("roberta", "question-answering"),
    "xlm-roberta-answers": ModelSpec("xlm-roberta", "question-answering"),
    "albert-answers": ModelSpec("albert", "question-answering"),
    "deberta-v2-answers": ModelSpec("deberta-v2", "question-answering"),
    "modernbert-answers": ModelSpec("modernbert", "question-answering"),
    # fill-mask
    "bert-words": ModelSpec("bert", "fill-mask"),
    "distilbert-words": ModelSpec("distilbert", "fill-mask"),
    "electra-words": ModelSpec("electra", "fill-mask"),
    "mpnet-words": ModelSpec("mpnet", "fill-mask"),
    "roberta-words": ModelSpec("roberta", "fill-mask"),
    "xlm-roberta-words": ModelSpec("xlm-roberta", "fill-mask"),
    "albert-words": ModelSpec("albert", "fill-mask"),
    "deberta-v2-words": ModelSpec("deberta-v2", "fill-mask"),
    "modernbert-words": ModelSpec("modernbert", "fill-mask"),
    # zero-shot-classification
    "bart-inference": ModelSpec("bart", "zero-shot-classification", INFERENCE),
    "deberta-v2-inference": ModelSpec("deberta-v2", "zero-shot-classification", TWO_WAY_INFERENCE),
    "roberta-inference": ModelSpec("roberta", "zero-shot-classification", INFERENCE),
    "bert-inference": ModelSpec("bert", "zero-shot-classification", UNNAMED_INFERENCE),
    # feature-extraction and embeddings
    "bert-features": ModelSpec("bert", "feature-extraction"),
    "mpnet-features": ModelSpec("mpnet", "feature-extraction"),
    "roberta-features": ModelSpec("roberta", "feature-extraction"),
    "deberta-v2-features": ModelSpec("deberta-v2", "feature-extraction"),
    "bert-sentences": ModelSpec("bert", "embeddings", seed="1"),
    "mpnet-sentences": ModelSpec("mpnet", "embeddings", seed="1"),
    "xlm-roberta-sentences": ModelSpec("xlm-roberta", "embeddings"),
    # text-ranking
    "bert-relevance": ModelSpec("bert", "text-ranking", labelled("relevance"), seed="1"),
    "roberta-relevance": ModelSpec("roberta", "text-ranking", labelled("relevance")),
    "xlm-roberta-relevance": ModelSpec("xlm-roberta", "text-ranking", labelled("relevance")),
    # generation
    "gpt2-stories": ModelSpec(
        "gpt2",
        "text-generation",
        generation={"bos_token_id": 0, "eos_token_id": [0, *range(30, 510, 30)]},
    ),
    "gpt2-poems": ModelSpec(
        "gpt2", "text-generation", _UNTIED, generation={"bos_token_id": 0, "eos_token_id": 0}
    ),
    "llama-chat": ModelSpec(
        "llama", "text-generation", generation={"bos_token_id": 1, "eos_token_id": 2}
    ),
    "t5-text": ModelSpec("t5", "text2text-generation", _UNTIED, generation=_T5_END),
    "bart-text": ModelSpec(
        "bart", "text2text-generation", generation={**_BART_END, "no_repeat_ngram_size": 2}
    ),
    "t5-summaries": ModelSpec("t5", "summarization", _T5_TASKS, generation=_T5_END, seed="1"),
    "bart-summaries": ModelSpec(
        "bart",
        "summarization",
        generation={**_BART_END, "no_repeat_ngram_size": 3, "max_length": 24, "min_length": 6},
        seed="1",
    ),
    "t5-translations": ModelSpec("t5", "translation", _T5_TASKS, generation=_T5_END, seed="2"),
    "marian-translations": ModelSpec(
        "marian",
        "translation",
        generation={
            "eos_token_id": [0, *range(25, 400, 25)],
            "forced_eos_token_id": 0,
            "num_beams": 6,
            "max_length": 40,
            "no_repeat_ngram_size": 2,
        },
    ),
    "bart-translations": ModelSpec("bart", "translation", generation=_BART_END, seed="2"),
}
