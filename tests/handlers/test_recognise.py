"""Recognising the stock handler by the hash of its tokens."""

from pathlib import Path

import pytest

from flambeau.handlers import recognise as module
from flambeau.handlers.recognise import StockForm, fingerprint, recognise, recognise_file

SOURCE = '''
import json

class Handler:
    """Says hello."""

    def handle(self, data, context):
        # one greeting per row
        names = [row.get("body", f"{len(data)} people") for row in data]
        return [f"Hello {name}" + 'x', (1,)] if names else json.loads("[]")
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("        # one greeting per row\n", "\n\n"),
        ('"""Says hello."""', "'''Greets.\n    At length.'''"),
        ('"body"', "'body'"),
        ('f"{len(data)} people"', "f'{len(data)} people'"),
        ("'x'", '"\\x78"'),
        ("(self, data, context)", "(self,\n            data, context,)"),
        ('"[]")', '"[]",\n)'),
        ("row.get(", "row.get ( "),
        ("\n", "\r\n"),
        ("    ", "\t"),
    ],
)
def test_changes_that_do_not_count(old: str, new: str) -> None:
    """Comments, docstrings, blank space, line ends, quotes and trailing commas do not count."""
    assert old in SOURCE
    assert fingerprint(SOURCE.replace(old, new)) == fingerprint(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"body"', '"data"'),
        ("Hello", "Hallo"),
        ("len(data)", "len(row)"),
        ("(1,)", "(1)"),
        ("import json", "import json\nimport os"),
        ("        return", "    return"),
        ('f"Hello', '"Hello'),
        ("'x'", "b'x'"),
        ("data, context", "context, data"),
        ('"[]"', '"[]", "x"'),
    ],
)
def test_changes_that_count(old: str, new: str) -> None:
    """Any change of the code makes it another handler."""
    assert old in SOURCE
    assert fingerprint(SOURCE.replace(old, new)) != fingerprint(SOURCE)


@pytest.mark.parametrize("source", ["def f(:\n  '''", "x = (", "  x\n y", "'\\x'"])
def test_what_is_not_python_is_not_recognised(source: str) -> None:
    """A file that cannot be read as Python is some other handler."""
    assert recognise(source) is None


def test_only_known_forms_are_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A form in the table is recognised with its era, from text and from a file."""
    digest = fingerprint(SOURCE)
    assert digest is not None
    assert recognise(SOURCE) is None
    monkeypatch.setitem(module._FORMS, digest, StockForm("0.0.1"))
    assert recognise(SOURCE) == StockForm("0.0.1")
    file = tmp_path / "handler.py"
    file.write_text("\ufeff" + SOURCE, encoding="utf-8")
    assert recognise_file(file) == StockForm("0.0.1")
    assert recognise_file(tmp_path / "gone.py") is None
    file.write_bytes(b"\xff\xfe")
    assert recognise_file(file) is None


def test_table_of_forms() -> None:
    """Every published era is there."""
    eras = {form.era for form in module._FORMS.values()}
    assert {"0.1.1", "0.2.0", "0.3.0", "0.4.0", "0.6.0", "0.8.0", "0.11.1"} <= eras
    assert all(len(digest) == 64 for digest in module._FORMS)
