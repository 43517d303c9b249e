"""What every task shares: its classes, records, and the reading of requests."""

from flambeau.tasks.base.activations import activation
from flambeau.tasks.base.files import FileTask
from flambeau.tasks.base.folder import read_json_object
from flambeau.tasks.base.generation import (
    SAMPLING,
    Chat,
    Continuation,
    GenerationParameters,
    GenerationTask,
)
from flambeau.tasks.base.inference import infer_task
from flambeau.tasks.base.length import (
    BESIDE_NAMES,
    LengthParameters,
    length_rule,
    translate_length,
)
from flambeau.tasks.base.numbers import short_numbers
from flambeau.tasks.base.parameters import (
    BaseParameters,
    WrongParameterError,
    read_parameters,
    shown,
)
from flambeau.tasks.base.parsing import (
    MAX_DEPTH,
    RowValue,
    check_depth,
    decode_text,
    json_type,
    parse_structured_text,
    require_unicode,
)
from flambeau.tasks.base.pooling import LIBRARY_MODES, PoolingMode
from flambeau.tasks.base.records import (
    MAX_RATE,
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
    read_safetensors,
)
from flambeau.tasks.base.scores import class_scores, largest, sigmoid, softmax
from flambeau.tasks.base.sentence_modules import unit
from flambeau.tasks.base.sentences import SentenceParameters, SentenceTask
from flambeau.tasks.base.sequence_to_sequence import SequenceToSequenceTask
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
    "BESIDE_NAMES",
    "LIBRARY_MODES",
    "MAX_DEPTH",
    "MAX_ENTRIES",
    "MAX_RATE",
    "SAMPLING",
    "AnswerOptions",
    "Arrays",
    "AudioInput",
    "BaseParameters",
    "BaseTask",
    "Chat",
    "Continuation",
    "Encoding",
    "Entry",
    "FileTask",
    "ForwardTask",
    "GenerationParameters",
    "GenerationTask",
    "Head",
    "ImageInput",
    "InputKind",
    "Inputs",
    "LengthParameters",
    "PairTruncation",
    "PoolingMode",
    "Reading",
    "Row",
    "RowOutputs",
    "RowValue",
    "SentenceParameters",
    "SentenceTask",
    "SequenceToSequenceTask",
    "TextInput",
    "Token",
    "Truncation",
    "Vocabulary",
    "Window",
    "WindowRule",
    "WrongParameterError",
    "activation",
    "check_depth",
    "class_scores",
    "decode_text",
    "infer_task",
    "join_windows",
    "json_type",
    "largest",
    "length_rule",
    "parse_structured_text",
    "read_json_object",
    "read_parameters",
    "read_safetensors",
    "require_unicode",
    "short_numbers",
    "shown",
    "sigmoid",
    "softmax",
    "text_tokens",
    "translate_length",
    "unit",
    "window_weights",
]
