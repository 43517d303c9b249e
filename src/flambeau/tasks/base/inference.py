"""Which task a model was made for."""

from collections.abc import Mapping

from flambeau.types import TaskName

_TASK_OF_HEAD: tuple[tuple[str, TaskName], ...] = (
    ("ForSequenceClassification", "text-classification"),
    ("ForTokenClassification", "token-classification"),
    ("ForQuestionAnswering", "question-answering"),
    ("ForQuestionAnsweringSimple", "question-answering"),
    ("ForImageClassification", "image-classification"),
    ("ForCTC", "automatic-speech-recognition"),
    ("ForMaskedLM", "fill-mask"),
    ("ForCausalLM", "text-generation"),
    ("LMHeadModel", "text-generation"),
    ("MarianMTModel", "translation"),
    ("ForConditionalGeneration", "text2text-generation"),
    ("Model", "feature-extraction"),  # no head at all
)


def infer_task(config: Mapping[str, object], *, makes_vectors: bool = False) -> TaskName | None:
    """The task of a model, from the class names under `architectures` of its `config.json`.

    `makes_vectors`: sentence-transformers saved it to make vectors of texts.
    """
    if makes_vectors:
        return "embeddings"
    architectures = config.get("architectures")
    for architecture in architectures if isinstance(architectures, list) else []:
        for ending, task in _TASK_OF_HEAD:
            if isinstance(architecture, str) and architecture.endswith(ending):
                ranks = task == "text-classification" and _is_cross_encoder(config)
                return "text-ranking" if ranks else task
    return None


def _is_cross_encoder(config: Mapping[str, object]) -> bool:
    """Whether sentence-transformers saved a model that gives one score to a pair of texts."""
    labels = config.get("id2label")
    one = len(labels) == 1 if isinstance(labels, Mapping) else config.get("num_labels") == 1
    marks = ("sentence_transformers", "sbert_ce_default_activation_function")
    return one and any(name in config for name in marks)
