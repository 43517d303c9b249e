"""The built-in handler `text_classifier` (contract.md section 9.5)."""

from collections.abc import Iterable
from typing import Any

import torch
from typing_extensions import override

from flambeau.handlers.optional_packages import require
from flambeau.handlers.ts.handler_utils.text_utils import ngrams_iterator
from flambeau.handlers.ts.torch_handler.text_handler import TextHandler
from flambeau.handlers.ts.utils.util import PredictionException, map_class_to_label

__all__ = ["TextClassifier"]

_UNKNOWN = "<unk>"


class _Texts(tuple[torch.Tensor, list[Any]]):
    """(token indices of all rows in one [tokens] tensor, tokens), and where each row begins.

    For one row the second is its tokens, as TorchServe has it; for several a list of those.
    """

    offsets: torch.Tensor


class TextClassifier(TextHandler):
    """Answers with each class's probability, for models of the form `model(tokens, offsets)`.

    Texts of a batch go through the model together (an EmbeddingBag's bags).
    """

    ngrams = 2

    @override
    def preprocess(self, data: Any) -> Any:
        """(token indices, tokens) of the rows; see `_Texts`."""
        tokens = [self._tokens(_text(row)) for row in data]
        indices = [
            torch.as_tensor(self._indices(words), dtype=torch.int64, device=self.device)
            for words in tokens
        ]
        texts = _Texts((torch.cat(indices), tokens[0] if len(tokens) == 1 else tokens))
        lengths = torch.tensor([0, *(len(row) for row in indices[:-1])])
        texts.offsets = lengths.cumsum(0).to(self.device)
        return texts

    def _tokens(self, text: str) -> list[str]:
        """The words of a text without mark-up, case, contractions, accents and punctuation."""
        text = self._expand_contractions(self._remove_html_tags(text).lower())
        return self._tokenize(self._remove_punctuation(self._remove_accented_characters(text)))

    def _indices(self, tokens: list[str]) -> Iterable[int]:
        """The indices of the n-grams; unknown ones count as `<unk>`, or not without that."""
        indices = []
        for token in ngrams_iterator(tokens, self.ngrams):
            for known in (token, _UNKNOWN):
                try:
                    indices.append(self.source_vocab[known])
                except (KeyError, RuntimeError):
                    continue
                break
        return indices

    @override
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Scores [rows, classes] of what `preprocess` returned."""
        indices, _ = data
        offsets = getattr(data, "offsets", torch.zeros(1, dtype=torch.int64, device=self.device))
        return super().inference(indices, offsets)

    @override
    def postprocess(self, data: Any) -> Any:
        """Scores → one dict label → probability per row."""
        probabilities = torch.nn.functional.softmax(data, dim=-1)
        return map_class_to_label(probabilities.tolist(), self.mapping)

    def get_insights(self, text_preprocess: Any, _: Any, target: Any = 0) -> list[Any]:
        """`{"importances", "words"}` of one row for class `target`."""
        indices, words = text_preprocess
        attr = require("captum.attr", "Explaining texts", "pip install captum")
        reference = attr.TokenReferenceBase()
        attributions = self.lig.attribute(
            indices,
            reference.generate_reference(indices.shape[0], device=self.device).squeeze(0),
            additional_forward_args=torch.zeros(1, dtype=torch.int64, device=self.device),
            return_convergence_delta=False,
            target=target,
        )
        importances = self.summarize_attributions(attributions)
        return [{"importances": importances.tolist(), "words": self.get_word_token(words)}]


def _text(row: Any) -> str:
    """A row's text; PredictionException with status 400 if it has none."""
    content = (row.get("data") or row.get("body") or "") if isinstance(row, dict) else row
    if isinstance(content, bytes | bytearray):
        try:
            content = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise PredictionException("The request's text is not UTF-8.", 400) from error
    if not isinstance(content, str):
        raise PredictionException("The request must hold text (`data` or `body`).", 400)
    return content
