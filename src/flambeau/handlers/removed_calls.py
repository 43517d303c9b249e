"""Keeps calls working that Transformers 5 removed and users' handlers still make.

Handlers written for TorchServe call `tokenizer.encode_plus`, `batch_encode_plus`, pass
`pad_to_max_length=True`, or ask for tuples with `torchscript=True`. `apply` gives these back to the
installed Transformers, in this process only. The first call of each kind is logged as a warning
that names its replacement. Native handlers never need it.
"""

import functools
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from typing_extensions import override

__all__ = ["apply"]

_logger = logging.getLogger(__name__)


@functools.cache  # one warning per kind
def _warn(call: str, replacement: str) -> None:
    _logger.warning("Transformers removed %s; it still works here. Write %s.", call, replacement)


def apply() -> None:
    """Give the removed calls back as soon as Transformers is imported; again changes nothing."""
    if "transformers" in sys.modules:
        _patch()
    elif not any(isinstance(finder, _PatchOnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PatchOnImport())


class _PatchOnImport(MetaPathFinder):
    """Patches Transformers after its import, so that other handlers need not wait for it."""

    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "transformers":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_patch(module: ModuleType) -> None:
                execute(module)
                _patch()

            spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]  # this one
        return spec


def _patch() -> None:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    if not hasattr(PreTrainedTokenizerBase, "encode_plus"):
        PreTrainedTokenizerBase.encode_plus = _encode_plus
    if not hasattr(PreTrainedTokenizerBase, "batch_encode_plus"):
        PreTrainedTokenizerBase.batch_encode_plus = _batch_encode_plus
    for name in ("__call__", "encode"):
        method = getattr(PreTrainedTokenizerBase, name)
        if not hasattr(method, "accepts_pad_to_max_length"):
            setattr(PreTrainedTokenizerBase, name, _accept_pad_to_max_length(method))
    if not hasattr(PreTrainedConfig, "torchscript"):
        PreTrainedConfig.torchscript = _TorchScriptFlag()


def _encode_plus(
    self: Any,
    text: Any,
    text_pair: Any = None,
    add_special_tokens: bool = True,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """One text or pair of texts as tokens."""
    _warn("tokenizer.encode_plus(…)", "tokenizer(…)")
    kwargs.update(_positional(args))
    return self(text, text_pair, add_special_tokens=add_special_tokens, **kwargs)


def _batch_encode_plus(
    self: Any,
    batch_text_or_text_pairs: Any,
    add_special_tokens: bool = True,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Texts, or (text, pair) tuples, as tokens."""
    _warn("tokenizer.batch_encode_plus(…)", "tokenizer([…])")
    kwargs.update(_positional(args))
    kwargs["add_special_tokens"] = add_special_tokens
    rows = list(batch_text_or_text_pairs)
    pairs = rows and all(isinstance(row, tuple) and len(row) == 2 for row in rows)
    if pairs:
        return self([text for text, _ in rows], [pair for _, pair in rows], **kwargs)
    return self(rows, **kwargs)


def _positional(args: tuple[Any, ...]) -> dict[str, Any]:
    """Arguments that both removed methods took by position after `add_special_tokens`."""
    names = ("padding", "truncation", "max_length", "stride", "is_split_into_words")
    return dict(zip(names, args, strict=False))


def _accept_pad_to_max_length(method: Callable[..., Any]) -> Callable[..., Any]:
    """`method` of a tokenizer with the old argument `pad_to_max_length`.

    As before, it applies only where `padding` is not given, and `max_length` then means truncation
    too unless `truncation` says otherwise.
    """

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if "pad_to_max_length" in kwargs:
            _warn("pad_to_max_length=True", 'padding="max_length", truncation=True')
            if kwargs.pop("pad_to_max_length") and not kwargs.get("padding"):
                kwargs["padding"] = "max_length"
                if kwargs.get("max_length") is not None and kwargs.get("truncation") is None:
                    kwargs["truncation"] = "longest_first"
        return method(self, *args, **kwargs)

    call.accepts_pad_to_max_length = True  # type: ignore[attr-defined]  # marks our own wrapper
    return call


class _TorchScriptFlag:
    """The attribute `torchscript` of a model's configuration: true means tuples for outputs."""

    def __get__(self, config: Any, owner: type | None = None) -> Any:
        return self if config is None else config.__dict__.get("torchscript", False)

    def __set__(self, config: Any, value: bool) -> None:
        config.__dict__["torchscript"] = value
        if value:
            _warn("torchscript=True", "return_dict=False")
            config.return_dict = False
