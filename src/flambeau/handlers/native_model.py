"""Loads what the native handler runs: settings, task, tokenizer and engine of one archive."""

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from flambeau import engines, tasks
from flambeau.archive.graphs import GRAPH_SUFFIXES
from flambeau.engines.base import Engine, ModelSource
from flambeau.engines.generation import GenerationSettings, generate_all
from flambeau.errors import ConfigError, LoadError, PredictionError, first_line
from flambeau.handlers.chat import ChatTemplate, read_chat_template
from flambeau.handlers.choice import NotShareableError
from flambeau.handlers.labels import read_labels, warn_missing_labels
from flambeau.handlers.media import RowReader, load_audio_reader, load_image_reader
from flambeau.handlers.native_jobs import sequence_of, with_wanted
from flambeau.handlers.settings import HandlerSettings, read_json_object, read_settings
from flambeau.handlers.tensors import read_tensors
from flambeau.handlers.tokenizer import TextTokenizer
from flambeau.handlers.tokenizer_files import load_tokenizer, model_positions
from flambeau.tasks.base import BaseTask, ForwardTask, GenerationTask, Head
from flambeau.types import Precision

logger = logging.getLogger(__name__)


class NativeModel(msgspec.Struct, frozen=True):
    """A model that is ready to answer.

    `positions` is how many tokens prompt and continuation may have together, None for no limit;
    `new_tokens` is how long a continuation gets where a request does not say, 0 where the archive
    does not either. `generation` are the model's own settings, by Transformers' names.
    """

    settings: HandlerSettings
    task: BaseTask
    reader: RowReader
    engine: Engine
    engine_name: str
    positions: int | None
    new_tokens: int = 0
    generation: dict[str, Any] = {}
    chat: ChatTemplate = ChatTemplate(None, {})

    @property
    def generates(self) -> GenerationTask:
        """The task, of a model that generates."""
        assert isinstance(self.task, GenerationTask)
        return self.task

    @property
    def tokenizer(self) -> TextTokenizer:
        """What reads its rows, where they are texts."""
        assert isinstance(self.reader, TextTokenizer)
        return self.reader


class Device(msgspec.Struct, frozen=True):
    """Where a model runs: a visible GPU's index, None for the CPU, and how many cores it may use.

    0 threads: the framework's own choice.
    """

    gpu: int | None = None
    threads: int = 0


class ModelParts(msgspec.Struct, frozen=True):
    """What of a model comes before its engine. `source` has no precision yet."""

    settings: HandlerSettings
    task: BaseTask
    reader: RowReader
    source: ModelSource
    labels: list[str] | None
    config: dict[str, object]
    generation_config: dict[str, object]

    @property
    def engine(self) -> str:
        """The engine that the archive asks for, or that its files are made for."""
        return _pick_engine(self.settings, self.source.file)


def load_model(
    model_dir: Path,
    manifest: Mapping[str, object],
    yaml_config: Mapping[str, object],
    *,
    device: Device,
    measured: tuple[str, Precision] | None = None,
    to_fork: bool = False,
) -> NativeModel:
    """Load an unpacked archive's model and run its task's example once.

    `measured` are the engine and the precision to take on a CPU where the settings leave the engine
    open. Raises `ConfigError` for wrong settings, `LoadError` where the model does not load or does
    not run, and `NotShareableError` where the process is `to_fork` and the engine does not survive it.
    """
    parts = load_parts(model_dir, manifest, yaml_config, device=device)
    settings = parts.settings
    _warn_without_effect(settings, yaml_config)
    precision = None if settings.precision == "auto" else settings.precision
    engine_name = parts.engine
    if settings.engine == "auto" and measured is not None and device.gpu is None:
        engine_name, precision = measured
    engine_class = engines.load(engine_name)
    if to_fork and not getattr(engine_class, "forks", False):
        raise NotShareableError
    source = msgspec.structs.replace(parts.source, precision=precision)
    engine = engine_class(source)
    model = NativeModel(
        settings=settings,
        task=parts.task,
        reader=parts.reader,
        engine=engine,
        engine_name=engine_name,
        positions=_generation_positions(parts.config),
        new_tokens=settings.max_length or 0,
        generation=dict(engine.session().defaults) if source.generates else {},
        chat=read_chat_template(model_dir),
    )
    outputs = run_example(model)
    if outputs is not None and model.task.has_labels:
        warn_missing_labels(parts.labels, outputs["logits"].shape[-1])
    return model


def load_parts(
    model_dir: Path,
    manifest: Mapping[str, object],
    yaml_config: Mapping[str, object],
    *,
    device: Device,
) -> ModelParts:
    """Read all of a model but its weights. Raises as `load_model`."""
    settings = read_settings(model_dir, yaml_config)
    if settings.task is None:
        raise ConfigError(
            "The archive does not say what its model is for. Set task in the handler section of"
            f" model-config.yaml. Allowed: {', '.join(tasks.available())}."
        )
    config = read_json_object(model_dir / "config.json")
    generation_config = read_json_object(model_dir / "generation_config.json")
    task_class = tasks.load(settings.task)
    labels = read_labels(model_dir, config)
    problem_type = config.get("problem_type")
    reader = _load_reader(model_dir, settings, config, task_class)
    task = task_class(
        Head(
            labels or [],
            problem_type if isinstance(problem_type, str) else None,
            config,
            str(model_dir),
            reader.vocabulary if isinstance(reader, TextTokenizer) else None,
            read_tensors,
            settings.pooling,
        )
    )
    shorter = None if settings.max_length is not None else task.max_length
    if shorter is not None and isinstance(reader, TextTokenizer):
        reader.shorten(shorter)
    source = ModelSource(
        model_dir=model_dir,
        task=task.name,
        outputs=task.outputs if isinstance(task, ForwardTask) else (),
        file=_serialized_file(model_dir, manifest),
        gpu=device.gpu,
        pad_id=reader.pad_id,
        eos_ids=_eos_ids(generation_config, config, reader.eos_id),
        max_length=reader.max_length,
        threads=device.threads,
    )
    return ModelParts(settings, task, reader, source, labels, config, generation_config)


def _load_reader(
    model_dir: Path,
    settings: HandlerSettings,
    config: Mapping[str, object],
    task: type[BaseTask],
) -> RowReader:
    if task.reads == "image":
        return load_image_reader(model_dir)
    if task.reads == "audio":
        return load_audio_reader(model_dir, config)
    return load_tokenizer(model_dir, settings, config, task)


def run_example(model: NativeModel) -> Mapping[str, Any] | None:
    """Run the task's example, so that a model that cannot run fails here and not in use.

    Returns what the engine gives, None where the example does not fit or is generated from. Raises
    `LoadError`.
    """
    inputs = model.task.parse(model.task.sample())
    row = model.task.rows(inputs.entries[0], inputs.parameters)[0]
    reading = model.reader.encode([row])[0]
    if isinstance(reading, PredictionError):
        # A max_length too small for the example may still suit the user's texts.
        return None
    sequence = sequence_of(with_wanted(model.task, reading).windows[0])
    try:
        if isinstance(model.task, GenerationTask):
            settings = GenerationSettings(1, min_length=0, do_sample=False, num_beams=1)
            generate_all(model.engine.session(), [sequence], [settings])
            return None
        outputs = model.engine.forward([sequence])[0]
    except Exception as error:
        raise LoadError(
            f"The model loads but does not run: {type(error).__name__}: {first_line(error)}"
        ) from error
    missing = [name for name in getattr(model.task, "outputs", ()) if name not in outputs]
    if missing:
        raise LoadError(
            f"The model gives no {', '.join(missing)}: it is not made for {model.task.name}."
            " Set task to what it was trained for."
        )
    return outputs


def _generation_positions(config: Mapping[str, object]) -> int | None:
    """How far a model can generate; models like T5 have positions that are relative."""
    return None if "relative_attention_num_buckets" in config else model_positions(config)


def _serialized_file(model_dir: Path, manifest: Mapping[str, object]) -> Path | None:
    model = (manifest or {}).get("model")
    name = model.get("serializedFile") if isinstance(model, Mapping) else None
    file = model_dir / name if isinstance(name, str) and name else None
    return file if file is not None and file.is_file() else None


def _pick_engine(settings: HandlerSettings, file: Path | None) -> str:
    if settings.engine != "auto":
        return settings.engine
    if settings.save_mode is not None:
        return "torchscript" if settings.save_mode == "torchscript" else "torch"
    if file is not None and file.suffix in GRAPH_SUFFIXES:
        return GRAPH_SUFFIXES[file.suffix]
    return "torchscript" if file is not None and _is_torchscript(file) else "torch"


def _is_torchscript(file: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip file that carries code."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in name for name in archive.namelist())


def _warn_without_effect(settings: HandlerSettings, yaml_config: Mapping[str, object]) -> None:
    names = list(settings.without_effect)
    pt2 = yaml_config.get("pt2")
    if isinstance(pt2, Mapping) and pt2.get("compile"):
        names.append("pt2.compile")
    if names:
        logger.warning("These settings have no effect here: %s.", ", ".join(names))


def _eos_ids(
    generation_config: Mapping[str, object], config: Mapping[str, object], saved: int | None
) -> tuple[int, ...]:
    for found in (generation_config.get("eos_token_id"), config.get("eos_token_id"), saved):
        if found is not None:
            ids = found if isinstance(found, list) else [found]
            return tuple(token for token in ids if isinstance(token, int))
    return ()
