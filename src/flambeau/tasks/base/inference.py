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
)


def infer_task(config: Mapping[str, object]) -> TaskName | None:
    """The task of a model, from the class names under `architectures` of its `config.json`."""
    architectures = config.get("architectures")
    for architecture in architectures if isinstance(architectures, list) else []:
        for ending, task in _TASK_OF_HEAD:
            if isinstance(architecture, str) and architecture.endswith(ending):
                return task
    return None
