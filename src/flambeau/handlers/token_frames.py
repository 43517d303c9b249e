"""What is put around a text's tokens, by the special tokens of a vocabulary."""

from tokenizers import Tokenizer, processors


def frame(tokenizer: Tokenizer, single: str, pair: str) -> None:
    """Put special tokens around a text and a pair; what has no token type of its own has type 0."""
    used = {token.split(":")[0] for token in pair.split() if not token.startswith("$")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[(token, token_id(tokenizer, token)) for token in sorted(used)],
    )


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that has to be in the vocabulary, else `ValueError`."""
    index = tokenizer.token_to_id(token)
    if index is None:
        raise ValueError(f"the vocabulary has no {token}")
    return index
