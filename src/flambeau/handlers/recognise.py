"""Knows TorchServe's stock Transformers handler when it meets it, without running it.

TorchServe published `Transformer_handler_generalized.py` as an example, and most archives of
Transformers models carry one of its forms unchanged. Such an archive is served natively. A form
is known by a hash of its tokens: comments, docstrings, blank space, quote style and trailing
commas do not count, every other change does, so that a modified copy runs its own code.

Nothing here imports a framework or runs the file.
"""

import ast
import hashlib
import io
import json
import keyword
import tokenize
from pathlib import Path
from typing import NamedTuple

__all__ = ["StockForm", "fingerprint", "recognise", "recognise_file"]


class StockForm(NamedTuple):
    """One published form of the stock handler.

    `era` is the first TorchServe release that shipped the form, or `<release>+` where the form
    was on the main branch only after that release.
    """

    era: str


_FORMS: dict[str, StockForm] = {
    "9d905d746a9589221169ac5ce6b7f748229a6397de839e3deb8f7c19dfdc8418": StockForm("0.1.1"),
    "31bc08f1c9a3d67bfb34b37b910b4db7fc95d9d9e865ff24d52665692a4ac839": StockForm("0.1.1+"),
    "9d053fdf6caa60dbf3e24b9f5833ddcdac11a46042ad108db9d092b9a36e5822": StockForm("0.1.1+"),
    "521296becee012eff33ef7952f8e1cb8c36e86e275b94080385303e2210f2884": StockForm("0.2.0"),
    "d630fdbf9ac9e3c1ded8d888952158af65d8573bd332e06cf9247ab76c3193b1": StockForm("0.2.0+"),
    "1027b8faf4b59a64877c3c569c66f4c6048b04f01619bd22986d0d13bd5a3c15": StockForm("0.3.0"),
    "2c585f131432de9a9ddac557eb2f2b4f9b3d4a8f0eabbe36247cc1a8ea935ed0": StockForm("0.3.1+"),
    "4ba52f938c2180c3748fd777523d75ab89f0344ac9339d38b2a8b7f4a0f717da": StockForm("0.3.1+"),
    "522074ad388c0c194bfda18f824b7c43216e49f003d16f6b970e210e5d482354": StockForm("0.3.1+"),
    "7ef4ecbafe7b0f083ce2d13fff3336c3ea7e493fba0451285207be893101ff9c": StockForm("0.3.1+"),
    "010120370846aadda1f8321b809b2531621fd29ccd3c1a23fa881476ef0234f4": StockForm("0.4.0"),
    "9093d8f3538adcd660ac402f50f287170d65969b99f6b8c1bc50fca2d7d1030b": StockForm("0.4.1"),
    "2bb53b39423c4c7f7f9d891a14302845475e85ee094a5aec1d25e606c52d27fa": StockForm("0.4.2+"),
    "12aac051e616ecf059481bc822561e7d4b4b8285bf44069d278089b1e638aa9e": StockForm("0.5.0"),
    "c884f5df172b1842cd21893a10075e21293eb1dd8d56ad11935d230cc6d7662f": StockForm("0.5.3+"),
    "6baaa8b1c3a612bd4f94d002812bf311c13934ecf87e05d7e191ff196a38d6df": StockForm("0.6.0"),
    "e4e82602dea5ad7202e2774d0726e48b08f4503c483e9953893fcc018bb52df8": StockForm("0.6.0+"),
    "5a443869c4e2043f7ef0e0b25791a47319bde60facf467c58b3181ad046d3015": StockForm("0.6.1"),
    "d7542b605c54f0b4280b27d4db5d7a33e99b858690205be3a67da410261ef9f6": StockForm("0.7.0"),
    "a7790bc29b18677d6040df012f701fc840f00b6a9a1c4e90a8c76970af8c0e7b": StockForm("0.8.0"),
    "940af4d575215488858ec4e48c6d3533eb8d34c2ed99b213924ca464cccf4823": StockForm("0.11.1"),
}
"""Published forms by `fingerprint`: TorchServe's main branch and its release tags and branches."""

_SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
_OPEN, _CLOSE = "([{", ")]}"


def recognise_file(path: Path) -> StockForm | None:
    """The stock form that the file at `path` holds, or None; None too if it cannot be read."""
    try:
        return recognise(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError):
        return None


def recognise(source: str) -> StockForm | None:
    """The stock form that `source` is, or None if it is anything else."""
    digest = fingerprint(source)
    return None if digest is None else _FORMS.get(digest)


def fingerprint(source: str) -> str | None:
    """A SHA-256 (hex) of the meaning-bearing tokens of `source`; None if it is not Python.

    The same on every Python version: f-strings, which the tokenizer splits since 3.12, count as
    one token, and no syntax tree is dumped.
    """
    try:
        statements = _statements(source)
    except (tokenize.TokenError, SyntaxError, ValueError):
        return None
    return hashlib.sha256(json.dumps(statements).encode()).hexdigest()


def _statements(source: str) -> list[list[str]]:
    """`source` as one list of normalised tokens per logical line, docstrings left out."""
    statements: list[list[str]] = []
    line: list[str] = []
    for kind, text in _tokens(source):
        if kind == tokenize.INDENT:
            line.append("<indent>")
        elif kind == tokenize.DEDENT:
            line.append("<dedent>")
        elif kind != tokenize.NEWLINE:
            line.append(text)
        else:
            marks = [token for token in line if token in ("<indent>", "<dedent>")]
            only_a_string = len(line) == len(marks) + 1 and line[-1].startswith("<str>")
            statements.append(marks if only_a_string else _without_trailing_commas(line))
            line = []
    statements.append(line)
    return [statement for statement in statements if statement]


def _tokens(source: str) -> list[tuple[int, str]]:
    """(type, normalised text) of the tokens of `source` that count."""
    text = source.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    tokens: list[tuple[int, str]] = []
    depth, start = 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        name = tokenize.tok_name[token.type]
        if name == "FSTRING_START":
            start = start if depth else token.start
            depth += 1
        elif name == "FSTRING_END":
            depth -= 1
            if not depth:
                tokens.append((tokenize.STRING, _string(_span(lines, start, token.end))))
        elif not depth and token.type not in _SKIPPED:
            is_string = token.type == tokenize.STRING
            tokens.append((token.type, _string(token.string) if is_string else token.string))
    return tokens


def _span(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The text from `start` to `end`, each (1-based row, column)."""
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]]
    middle = lines[start[0] : end[0] - 1]
    return "\n".join([lines[start[0] - 1][start[1] :], *middle, lines[end[0] - 1][: end[1]]])


def _string(literal: str) -> str:
    """A string literal without its quote style; two literals of one value read the same."""
    prefix = literal[: len(literal) - len(literal.lstrip("rRbBuUfF"))].lower()
    if "f" in prefix:
        body = literal[len(prefix) :]
        quote = 3 if body[:3] in ('"""', "'''") else 1
        return f"<fstr>{prefix}{body[quote:-quote]}"
    value = ast.literal_eval(literal)
    return f"<str>{json.dumps(value)}" if isinstance(value, str) else f"<str>{value!r}"


def _without_trailing_commas(line: list[str]) -> list[str]:
    """`line` without the commas before a closing bracket that mean nothing.

    The comma that makes a tuple of one (`(a,)`, `x[a,]`) stays.
    """
    kept: list[str] = []
    commas: list[int] = []  # of each open bracket
    significant: list[bool] = []  # whether one comma alone would make a tuple there
    for text in line:
        if text in _OPEN:
            calls = bool(kept) and _ends_an_expression(kept[-1])
            significant.append((text == "(" and not calls) or (text == "[" and calls))
            commas.append(0)
        elif text == "," and commas:
            commas[-1] += 1
        elif text in _CLOSE and commas:
            count, matters = commas.pop(), significant.pop()
            if kept[-1] == "," and not (matters and count == 1):
                kept.pop()
        kept.append(text)
    return kept


def _ends_an_expression(text: str) -> bool:
    """Whether a bracket after the token `text` calls or indexes what came before."""
    return text in (")", "]") or (text.isidentifier() and not keyword.iskeyword(text))
