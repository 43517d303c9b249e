"""The activation functions that sentence-transformers' configurations name, in numpy."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from flambeau.errors import LoadError
from flambeau.tasks.base.scores import sigmoid

Array = npt.NDArray[np.float32]
Activation = Callable[[Array], Array]


def activation(name: str) -> Activation:
    """The function of a name such as `torch.nn.modules.activation.Tanh`.

    Raises `LoadError` for one that is not known: another in its place would change every answer.
    """
    package, _, kind = name.rpartition(".")
    if kind in _ACTIVATIONS and (not package or package.startswith("torch.")):
        return _ACTIVATIONS[kind]
    raise LoadError(
        f"The model's configuration names the activation {name!r}, which is not known here."
        f" Known: {', '.join(sorted(_ACTIVATIONS))} of torch.nn."
    )


def identity(values: Array) -> Array:
    """The values themselves."""
    return values


def logistic(values: Array) -> Array:
    """Sigmoid, in the precision of the values."""
    return sigmoid(values).astype(values.dtype)


def _relu(values: Array) -> Array:
    return np.maximum(values, 0)


def _silu(values: Array) -> Array:
    return values * logistic(values)


def _gelu(values: Array) -> Array:
    return np.asarray(0.5 * values * (1.0 + _erf(values / math.sqrt(2))), dtype=values.dtype)


_erf = np.vectorize(math.erf, otypes=[np.float64])

_ACTIVATIONS: Mapping[str, Activation] = {
    "GELU": _gelu,
    "Identity": identity,
    "ReLU": _relu,
    "SiLU": _silu,
    "Sigmoid": logistic,
    "Tanh": np.tanh,
}
