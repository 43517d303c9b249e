"""The base class of handlers for text with a vocabulary (contract.md section 9.5)."""

import os
import re
import string
import unicodedata
from abc import ABC
from typing import Any

import torch
from typing_extensions import override

from flambeau.errors import LoadError
from flambeau.handlers.optional_packages import require
from flambeau.handlers.ts.handler_utils.text_utils import get_tokenizer
from flambeau.handlers.ts.torch_handler.base_handler import BaseHandler, load_tensors
from flambeau.handlers.ts.torch_handler.contractions import CONTRACTION_MAP
from flambeau.handlers.ts.utils.util import CLEANUP_REGEX

__all__ = ["CONTRACTIONS_PATTERN", "TextHandler"]

CONTRACTIONS_PATTERN = re.compile("|".join(map(re.escape, CONTRACTION_MAP)), re.IGNORECASE)
"""Matches what `CONTRACTION_MAP` can expand."""


class TextHandler(BaseHandler, ABC):
    """Reads the archive's vocabulary, and has the usual clean-up steps for text.

    `source_vocab` maps a token to its index. captum is needed for explanations only, and imported
    with the first one.
    """

    _lig: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.source_vocab: Any = None
        self.tokenizer = get_tokenizer("basic_english")
        self.input_text: Any = None

    @override
    def initialize(self, context: Any) -> None:
        """Load the model, and the vocabulary: the manifest's `sourceVocab` or source_vocab.pt."""
        super().initialize(context)
        self.initialized = False
        named = (self.manifest or {}).get("model", {}).get("sourceVocab")
        path = named or self.get_source_vocab_path(context)
        try:
            self.source_vocab = load_tensors(os.path.join(self._model_dir(context), path), "cpu")
        except LoadError as error:
            raise LoadError(
                f"{os.path.basename(path)} holds more than a dict of tokens, and loading it would "
                "run code. Save a torchtext vocabulary with torch.save(vocab.get_stoi(), …) and "
                "package it again."
            ) from error
        self.initialized = True

    @staticmethod
    def _model_dir(context: Any) -> str:
        folder: str = context.system_properties.get("model_dir")
        return folder

    def get_source_vocab_path(self, ctx: Any) -> str:
        """The path of the archive's source_vocab.pt; LoadError if there is none."""
        path = os.path.join(self._model_dir(ctx), "source_vocab.pt")
        if not os.path.isfile(path):
            raise LoadError(
                "The archive has no source_vocab.pt, which text handlers need: save the vocabulary "
                "with torch.save({token: index, …}, …) and package it with --extra-files."
            )
        return path

    @property
    def lig(self) -> Any:
        """captum's LayerIntegratedGradients of the model's `embedding`."""
        if self._lig is None:
            way_out = "pip install captum (without it the model answers, and explains nothing)"
            captum = require("captum.attr", "Explaining texts", way_out)
            self._lig = captum.LayerIntegratedGradients(self.model, self.model.embedding)
        return self._lig

    @lig.setter
    def lig(self, value: Any) -> None:
        self._lig = value

    def _expand_contractions(self, text: str) -> str:
        """`don't` → `do not`; the first letter keeps its case, and other apostrophes go."""

        def words(found: re.Match[str]) -> str:
            short = found.group(0)
            full = CONTRACTION_MAP.get(short) or CONTRACTION_MAP[short.lower()]
            return short[0] + full[1:]

        return CONTRACTIONS_PATTERN.sub(words, text).replace("'", "")

    def _remove_accented_characters(self, text: str) -> str:
        """Letters without accents; what is not ASCII then is dropped."""
        return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()

    def _remove_html_tags(self, text: str) -> str:
        """Text without HTML tags and entities."""
        return CLEANUP_REGEX.sub("", text)

    def _remove_punctuation(self, text: str) -> str:
        """Text without ASCII punctuation."""
        return text.translate(str.maketrans("", "", string.punctuation))

    _remove_puncutation = _remove_punctuation  # as TorchServe once spelled it

    def _tokenize(self, text: str) -> list[str]:
        return self.tokenizer(text)

    def get_word_token(self, input_tokens: list[str]) -> list[str]:
        """Tokens without the mark that byte-pair tokenizers put for a blank."""
        return [token.replace("\u0120", "") for token in input_tokens]

    def summarize_attributions(self, attributions: torch.Tensor) -> torch.Tensor:
        """Attributions as shares: a softmax (over dimension 1 of two), in units of its norm."""
        dimension = 0 if attributions.ndim in (0, 1, 3) else 1
        shares = torch.nn.functional.softmax(attributions, dim=dimension)
        norm: torch.Tensor = torch.linalg.vector_norm(shares.sum(dim=-1))
        return shares / norm
