"""What every task shares: its classes, records, and the reading of requests."""

from flambeau.tasks.base.binary import NotAFileError, file_bytes, is_json
from flambeau.tasks.base.generation import Continuation, GenerationParameters, GenerationTask
from flambeau.tasks.base.inference import infer_task
from flambeau.tasks.base.parameters import (
    BaseParameters,
    WrongParameterError,
    read_parameters,
    shown,
)
from flambeau.tasks.base.parsing import (
    RowValue,
    decode_text,
    json_type,
    parse_structured_text,
    require_unicode,
)
from flambeau.tasks.base.records import (
    Arrays,
    AudioInput,
    Encoding,
    Entry,
    Head,
    ImageInput,
    PairTruncation,
    Reading,
    Row,
    RowOutputs,
    TextInput,
    Truncation,
    Vocabulary,
    Window,
    WindowRule,
)
from flambeau.tasks.base.scores import class_scores, sigmoid, softmax
from flambeau.tasks.base.task import (
    MAX_ENTRIES,
    AnswerOptions,
    BaseTask,
    ForwardTask,
    InputKind,
    Inputs,
)
from flambeau.tasks.base.tokens import Token, text_tokens
from flambeau.tasks.base.windows import join_windows, window_weights

__all__ = [
    "MAX_ENTRIES",
    "AnswerOptions",
    "Arrays",
    "AudioInput",
    "BaseParameters",
    "BaseTask",
    "Continuation",
    "Encoding",
    "Entry",
    "ForwardTask",
    "GenerationParameters",
    "GenerationTask",
    "Head",
    "ImageInput",
    "InputKind",
    "Inputs",
    "NotAFileError",
    "PairTruncation",
    "Reading",
    "Row",
    "RowOutputs",
    "RowValue",
    "TextInput",
    "Token",
    "Truncation",
    "Vocabulary",
    "Window",
    "WindowRule",
    "WrongParameterError",
    "class_scores",
    "decode_text",
    "file_bytes",
    "infer_task",
    "is_json",
    "join_windows",
    "json_type",
    "parse_structured_text",
    "read_parameters",
    "require_unicode",
    "shown",
    "sigmoid",
    "softmax",
    "text_tokens",
    "window_weights",
]
