"""What sentence-transformers saved in a model's folder: how its token states become one vector.

`modules.json` lists the modules. The first is the Transformers model, which the engine runs; the
others are small and run here, in numpy.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
import numpy.typing as npt

from flambeau.errors import LoadError
from flambeau.tasks.base.activations import Activation, activation
from flambeau.tasks.base.folder import read_json, read_json_object
from flambeau.tasks.base.pooling import LIBRARY_MODES, PoolingMode
from flambeau.tasks.base.records import Arrays, Head

Array = npt.NDArray[np.float32]
Layer = Callable[[Array], Array]

_MODULES_FILE = "modules.json"
_TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
_MODEL_FILE = "config_sentence_transformers.json"
_KNOWN = "Transformer, Pooling, Dense, LayerNorm, Normalize, Dropout"


class SentenceModules(msgspec.Struct, frozen=True):
    """A model's modules and settings, as far as they concern what is done with its states.

    `layers` are what comes after pooling, without a last normalisation, which `normalizes` stands
    for. `size` is how many numbers a vector has, None where nothing says. `dimensions` is how many
    of them are given where a request does not say. A model that was saved without
    sentence-transformers has the defaults: the mean of its tokens.
    """

    pooling: tuple[PoolingMode, ...] = ("mean",)
    include_prompt: bool = True
    layers: Sequence[Layer] = ()
    normalizes: bool = False
    size: int | None = None
    dimensions: int | None = None
    prompts: Mapping[str, str] = {}
    default_prompt: str | None = None
    max_length: int | None = None
    lower_case: bool = False


def read_sentence_modules(head: Head) -> SentenceModules:
    """The modules of a model's folder. Raises `LoadError` for one that cannot be run here."""
    width = _width(head.config)
    if head.folder is None:
        return SentenceModules(size=width)
    folder = Path(head.folder)
    settings = _settings(folder)
    if not (folder / _MODULES_FILE).is_file():
        return msgspec.structs.replace(settings, size=width)
    pooling: tuple[PoolingMode, ...] | None = None
    include_prompt, layers, size = True, list[Layer](), width
    for kind, place in _listed(folder):
        config = read_json_object(place / "config.json")
        match kind:
            case "Pooling":
                pooling, include_prompt = (
                    _pooling(config),
                    config.get("include_prompt") is not False,
                )
                size = width and width * len(pooling)
            case "Dense" | "LayerNorm" if pooling is None:
                raise LoadError(
                    f"modules.json has {kind} before Pooling, which is not supported: vectors of"
                    " tokens are not changed here."
                )
            case "Dense":
                dense = _dense(config, _tensors(place, head))
                layers.append(dense)
                size = len(dense.weight)
            case "LayerNorm":
                layers.append(_layer_norm(_tensors(place, head)))
            case "Normalize":
                layers.append(unit)
            case _:  # dropout does nothing where nothing is trained
                pass
    normalizes = bool(layers) and layers[-1] is unit
    return msgspec.structs.replace(
        settings,
        pooling=pooling or ("mean",),
        include_prompt=include_prompt,
        layers=layers[:-1] if normalizes else layers,
        normalizes=normalizes,
        size=size,
    )


def unit(vector: Array) -> Array:
    """A vector of length 1 in the same direction; zeros stay zeros."""
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), dtype=np.float32)


class Dense(msgspec.Struct, frozen=True):
    """A linear layer and an activation; `residual` is added, through a layer of its own or as is."""

    weight: Array
    bias: Array | None
    activation: Activation
    residual: Array | None = None
    adds_input: bool = False

    def __call__(self, vector: Array) -> Array:
        """`[in_features]` to `[out_features]`."""
        made = self.weight @ vector
        made = self.activation(made if self.bias is None else made + self.bias)
        if self.adds_input:
            made = made + (vector if self.residual is None else self.residual @ vector)
        return np.asarray(made, dtype=np.float32)


class LayerNorm(msgspec.Struct, frozen=True):
    """Mean 0 and variance 1, then a scale and an offset for each number."""

    weight: Array
    bias: Array

    def __call__(self, vector: Array) -> Array:
        """Keeps the size. The small number is torch's own."""
        centred = vector - vector.mean()
        scaled = centred / np.sqrt((centred * centred).mean() + np.float32(1e-5))
        return np.asarray(scaled * self.weight + self.bias, dtype=np.float32)


def _listed(folder: Path) -> list[tuple[str, Path]]:
    """Each module's class name and folder, after the first, which must be the model itself."""
    listed = read_json(folder / _MODULES_FILE)
    modules: list[tuple[str, Path]] = []
    for module in listed if isinstance(listed, list) else []:
        given = module if isinstance(module, dict) else {}
        kind, place = str(given.get("type", "")), str(given.get("path", ""))
        package, _, name = kind.rpartition(".")
        known = name in _KNOWN.split(", ") and package.split(".")[0] == "sentence_transformers"
        if not known:
            raise LoadError(
                f"modules.json has the module {kind!r}, which is not supported. Supported:"
                f" {_KNOWN}, of sentence_transformers."
            )
        path = PurePosixPath(place)
        if path.is_absolute() or ".." in path.parts:
            raise LoadError(
                f"modules.json names {place!r}, which is outside of the model's folder."
            )
        modules.append((name, folder / path))
    if not modules or modules[0] != ("Transformer", folder):
        raise LoadError(
            "modules.json must begin with the module Transformer in the model's own folder (path"
            ' ""). Save the model again with sentence-transformers 2 or newer.'
        )
    return modules[1:]


def _settings(folder: Path) -> SentenceModules:
    """What is set beside the modules: lengths, case, prompts."""
    found = (read_json_object(folder / name) for name in _TRANSFORMER_FILES)
    transformer = next((each for each in found if each), {})
    model = read_json_object(folder / _MODEL_FILE)
    prompts = model.get("prompts")
    prompts = prompts if isinstance(prompts, dict) else {}
    default = model.get("default_prompt_name")
    return SentenceModules(
        max_length=_count(transformer.get("max_seq_length")),
        lower_case=transformer.get("do_lower_case") is True,
        prompts={str(name): text for name, text in prompts.items() if isinstance(text, str)},
        default_prompt=default if isinstance(default, str) else None,
        dimensions=_count(model.get("truncate_dim")),
    )


def _pooling(config: Mapping[str, object]) -> tuple[PoolingMode, ...]:
    named = config.get("pooling_mode")
    if named is None:
        flags = (
            "cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens",
            "lasttoken",
        )  # fmt: skip
        pairs = zip(LIBRARY_MODES.values(), flags, strict=True)
        modes = tuple(mode for mode, flag in pairs if config.get(f"pooling_mode_{flag}") is True)
        return modes or ("mean",)
    names = named if isinstance(named, list) else [named]
    wrong = next((name for name in names if name not in LIBRARY_MODES), None)
    if wrong is not None or not names:
        raise LoadError(
            f"The module Pooling has the mode {wrong!r}. Allowed: {', '.join(LIBRARY_MODES)}."
        )
    return tuple(LIBRARY_MODES[str(name)] for name in names)


def _dense(config: Mapping[str, object], tensors: Arrays) -> Dense:
    for name in ("module_input_name", "module_output_name"):
        if config.get(name) not in (None, "sentence_embedding"):
            raise LoadError(
                f"The module Dense has {name} {config[name]!r}, which is not supported."
            )
    kind = config.get("activation_function") or "torch.nn.modules.linear.Identity"
    if "activation_function" not in config:
        kind = "torch.nn.modules.activation.Tanh"  # the library's default
    return Dense(
        weight=_tensor(tensors, "linear.weight", "Dense"),
        bias=tensors.get("linear.bias"),
        activation=activation(str(kind)),
        residual=tensors.get("residual.weight"),
        adds_input=config.get("use_residual") is True,
    )


def _layer_norm(tensors: Arrays) -> LayerNorm:
    weight, bias = (_tensor(tensors, f"norm.{name}", "LayerNorm") for name in ("weight", "bias"))
    return LayerNorm(weight, bias)


def _tensor(tensors: Arrays, name: str, module: str) -> Array:
    if name not in tensors:
        raise LoadError(f"The weights of the module {module} have no {name}.")
    return tensors[name]


def _tensors(place: Path, head: Head) -> Arrays:
    """A module's weights, from safetensors where there are such."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (place / name).is_file():
            try:
                return head.read_tensors(place / name)
            except Exception as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise LoadError(f"{place.name}/{name} cannot be read: {reason}") from error
    raise LoadError(
        f"The folder {place.name}, which modules.json names, has no weights: no model.safetensors"
        " and no pytorch_model.bin."
    )


def _width(config: Mapping[str, object]) -> int | None:
    """How many numbers a token's state has, by a `config.json`."""
    text = config.get("text_config")
    names = ("hidden_size", "d_model", "dim", "n_embd", "emb_dim")
    found = (_count(config.get(name)) for name in names)
    nested = _width(text) if isinstance(text, Mapping) else None
    return next((size for size in found if size is not None), nested)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
