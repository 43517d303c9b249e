"""How a handler string becomes an entry point (contract.md section 9.1)."""

import sys
from pathlib import Path
from typing import Any

import pytest

from flambeau.errors import LoadError
from flambeau.handlers.entry import HandlerName, parse_handler

Load = Any  # the fixture of conftest.py

ECHO = """
    class Echo:
        def initialize(self, context):
            self.loaded = context.model_name
        def handle(self, data, context):
            return [f"{self.loaded} {row['body']}" for row in data]
    def shout(data, context):
        return [row["body"].upper() for row in data or []]
"""


@pytest.mark.parametrize(
    ("handler", "parts"),
    [
        ("my.py", HandlerName("", "my", "")),
        ("my", HandlerName("", "my", "")),
        ("my:entry", HandlerName("", "my", "entry")),
        ("my.py:entry", HandlerName("", "my", "entry")),
        ("/abs/dir/my.py:entry", HandlerName("/abs/dir", "my", "entry")),
        ("dir/my.py", HandlerName("dir", "my", "")),
        ("", HandlerName("", "", "")),
    ],
)
def test_forms_of_a_handler_string(handler: str, parts: HandlerName) -> None:
    """Directory, module and function are told apart."""
    assert parse_handler(handler) == parts


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        ("my_handler", b"tiny a"),
        ("my_handler.py", b"tiny a"),
        ("my_handler.py:shout", b"A"),
        ("my_handler:shout", b"A"),
        ("my_handler.py:Echo", b"tiny a"),
        ("somewhere/else/my_handler.py:shout", b"A"),
    ],
)
def test_class_and_function(load: Load, handler: str, expected: bytes) -> None:
    """A named function, a named class, or the one class there is."""
    assert load({"my_handler.py": ECHO}, handler).answer("a") == [expected]


def test_handler_by_absolute_path(load: Load, tmp_path: Path) -> None:
    """A handler outside the archive is found by its path, with its neighbours."""
    (tmp_path / "my_own.py").write_text(
        "import neighbour\ndef handle(data, context):\n  return [neighbour.NAME]"
    )
    (tmp_path / "neighbour.py").write_text("NAME = 'next door'")
    assert load({}, f"{tmp_path}/my_own.py").answer(b"") == [b"next door"]


def test_function_runs_once_at_load(load: Load) -> None:
    """A function entry point is called with data=None when the model loads."""
    served = load("""
        calls = []
        def handle(data, context):
            calls.append(data)
            return [len(calls), calls[0]][:len(data or [])]
    """)
    assert served.answer(b"", b"") == [b"2", b"null"]


def test_function_wins_over_class_but_a_variable_does_not(load: Load) -> None:
    """`handle` counts as an entry point only if it can be called."""
    source = "handle = None\nclass A:\n  def initialize(self, c): pass\n  def handle(self, d, c): "
    assert load(source + "return ['class']").answer(b"") == [b"class"]


def test_helper_classes_do_not_count(load: Load) -> None:
    """Dataclasses, exceptions, base classes and imported handlers beside the handler are fine."""
    served = load("""
        from dataclasses import dataclass
        from ts.torch_handler.base_handler import BaseHandler
        @dataclass
        class Options:
            size: int = 3
        class Trouble(Exception):
            pass
        class Common(BaseHandler):
            def initialize(self, context):
                self.options = Options()
        class Mine(Common):
            def handle(self, data, context):
                return [self.options.size]
    """)
    assert served.answer(b"") == [b"3"]


def test_handle_may_be_set_by_the_constructor(load: Load) -> None:
    """An instance attribute `handle` is an entry point."""
    served = load("""
        class Mine:
            def __init__(self):
                self.handle = lambda data, context: ["instance"]
            def initialize(self, context):
                pass
    """)
    assert served.answer(b"") == [b"instance"]


def test_two_handlers_are_ambiguous(load: Load) -> None:
    """Two unrelated handler classes need a choice, and the message says how to make it."""
    method = "  def initialize(self, c): pass\n  def handle(self, d, c): return ['B']\n"
    source = f"class A:\n{method}\nclass B:\n{method}"
    message = r"more than one handler class: A, B\. Say which one .* my_handler\.py:A"
    with pytest.raises(LoadError, match=message):
        load(source)
    assert load(source, "my_handler.py:B").answer(b"") == [b"B"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", r"neither a function handle\(data, context\) nor a class.*defined in it: none"),
        ("class A: pass", "Classes defined in it: A"),
        (
            "class A:\n  def initialize(self, c): pass",
            r"The handler class A has no handle\(\)",
        ),
    ],
)
def test_no_entry_point(load: Load, source: str, message: str) -> None:
    """A file without an entry point says what it lacks and what it has."""
    with pytest.raises(LoadError, match=message):
        load(source)


def test_missing_handler(load: Load) -> None:
    """The message names the file that was looked for and what the archive contains."""
    with pytest.raises(LoadError) as caught:
        load({"mine.py": "", "model.pt": b""}, "my_handler.py")
    assert str(caught.value) == (
        "No handler 'my_handler': there is no my_handler.py in the archive, and it is not built in "
        "(transformers_handler, base_handler, vision_handler, image_classifier, image_segmenter, "
        "object_detector, text_handler, text_classifier, densenet_handler, "
        "dali_image_classifier, vllm_handler, trt_llm_handler). The archive contains: "
        "MAR-INF/MANIFEST.json, mine.py, model.pt."
    )


def test_no_handler_at_all(load: Load) -> None:
    """A model without a handler string is told so; the manifest's handler is the fallback."""
    with pytest.raises(LoadError, match="The model has no handler"):
        load({}, "")
    served = load({"my_handler.py": ECHO}, "", manifest={"handler": "my_handler.py"})
    assert served.answer("a") == [b"tiny a"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import torch\nimport no_such_package\n",
            r"^ModuleNotFoundError: No module named 'no_such_package' \(my_handler\.py:2\)$",
        ),
        (
            "from ts.torch_handler.base_handler import NoSuchName\n",
            r"^ImportError: cannot import name 'NoSuchName'.*\(my_handler\.py:1\)$",
        ),
        (
            "from ts.torch_handler.no_such import Handler\n",
            r"No module named 'ts\.torch_handler\.no_such'.*\(my_handler\.py:1\)$",
        ),
        ("def handle(:\n", r"^SyntaxError: .*my_handler\.py, line 1"),
        (
            "def f():\n  {}['label']\n\ndef handle(d, c):\n  f()\n",
            r"^KeyError: 'label' \(my_handler\.py:2\)$",
        ),
        ("def handle(d, c):\n  raise ValueError('a\\nb')\n", r"^ValueError: a b \(my_handler"),
    ],
)
def test_users_own_error_is_shown(load: Load, source: str, message: str) -> None:
    """What the user's code raised comes in one line with its place, never masked."""
    with pytest.raises(LoadError, match=message) as caught:
        load(source)
    assert "\n" not in str(caught.value)


def test_missing_dependency_named_like_the_handler(load: Load) -> None:
    """A handler that imports a missing part of an installed package is not called missing."""
    with pytest.raises(LoadError, match=r"No module named 'json\.no_such'"):
        load("import json.no_such\n")


def test_file_named_like_a_loaded_module(load: Load) -> None:
    """A handler file may have the name of a module that this process uses."""
    standard = sys.modules["textwrap"]
    try:
        served = load(
            {"textwrap.py": "def handle(data, context):\n  return ['mine']"}, "textwrap.py"
        )
        assert served.answer(b"") == [b"mine"]
    finally:
        sys.modules["textwrap"] = standard


def test_package_as_handler(load: Load) -> None:
    """A folder with an __init__.py is a handler too."""
    files = {
        "my_handler/__init__.py": "from my_handler.parts import handle",
        "my_handler/parts.py": "def handle(data, context):\n  return ['package']",
    }
    assert load(files, "my_handler").answer(b"") == [b"package"]


def test_unknown_envelope(load: Load) -> None:
    """An envelope that does not exist is named with the ones that do."""
    with pytest.raises(LoadError, match="'seldon': choose body, json, kserve or kservev2"):
        load("def handle(data, context): pass", service_envelope="seldon")
