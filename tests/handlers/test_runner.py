"""What clients get for what a user's handler does (contract.md sections 5.2, 5.4, 5.5 and 5.7)."""

import json
import logging
import sys
from typing import Any

import pytest

from flambeau.errors import ErrorKind, LoadError, PredictionError
from flambeau.types import Chunk

Load = Any  # the fixture of conftest.py


def test_rows_in_results_out(load: Load) -> None:
    """A batch reaches the handler as a list of rows; each item gets its own answer."""
    served = load("""
        def handle(data, context):
            if data is None:
                return None
            return [row["body"] for row in data]
    """)
    assert served.answer("one", {"two": 2}, b"three") == [b"one", b'{\n  "two": 2\n}', b"three"]


def test_decode_input_off(load: Load) -> None:
    """With decode_input off the handler sees bytes only."""
    source = (
        "def handle(data, context):\n  return [type(row['body']).__name__ for row in data or []]"
    )
    assert load(source, decode_input=False).answer({"a": 1}) == [b"bytearray"]


def test_load_gives_the_context_its_facts(load: Load) -> None:
    """Name, manifest, configuration and system properties are there; cwd is the archive."""
    served = load(
        """
        import os
        facts = {}
        def handle(data, context):
            if data is None:
                facts["ids"] = [context.request_ids, context.request_processor]
                facts["name"] = context.model_name
                facts["model"] = context.manifest["model"]["modelName"]
                facts["yaml"] = context.model_yaml_config
                facts["properties"] = context.system_properties
                facts["cwd"] = os.getcwd()
                context.metrics.add_counter("loads", 1, idx=0)
                return None
            return [facts] * len(data)
        """,
        config="handler:\n  profile: true\n",
        limit_max_image_pixels=False,
    )
    facts = json.loads(served.answer(b"")[0])
    model_dir = facts["properties"].pop("model_dir")
    assert facts == {
        "ids": [None, None],
        "name": "tiny",
        "model": "tiny",
        "yaml": {"handler": {"profile": True}},
        "properties": {
            "gpu_id": None,
            "batch_size": 8,
            "server_name": "MMS",
            "server_version": "0.12.0",
            "limit_max_image_pixels": False,
        },
        "cwd": model_dir,
    }


def test_a_manifest_with_a_byte_order_mark(load: Load) -> None:
    """What the server reads, the worker reads: one reader for both."""
    source = (
        "def handle(data, context):\n  return [context.manifest['model']['x']] * len(data or [])"
    )
    text = '\ufeff{"model": {"x": 1.0}}'
    served = load({"my_handler.py": source, "MAR-INF/MANIFEST.json": text})
    assert served.answer(b"") == [b"1.0"]


def test_headers_of_the_request(load: Load) -> None:
    """Headers are found in any case one by one, and are a plain dict together; ids are by row."""
    served = load("""
        def handle(data, context):
            if data is None:
                return
            return [
                [context.get_request_header(i, "x-FOO"), context.get_request_header(i, "missing"),
                 context.get_request_header(i, "body"), context.get_request_id(i),
                 "X-foo" in context.get_all_request_header(i)]
                for i in range(len(data))
            ]
    """)
    first = served.item("a", {"X-Foo": "1"})
    second = served.item("b", {"x-foo": "2"})
    answers = [json.loads(body) for body in served.answer(first, second)]
    text = {"content-type": "text/plain"}
    assert answers == [["1", None, text, first.id, False], ["2", None, text, second.id, False]]


def test_status_headers_and_content_type_per_item(load: Load) -> None:
    """Each answer carries its own status, phrase, headers and content type."""
    served = load("""
        def handle(data, context):
            if data is None:
                return
            context.set_response_status(404, "No city", idx=1)
            context.set_response_header(0, "X-Count", 3)
            context.set_response_content_type(0, "text/csv")
            context.set_response_header(1, "Content-Type", "text/html")
            return [{"a": 1}, "b", {"c": 1}]
    """)
    first, second, third = served.chunks(b"", b"", b"")
    assert (first.status, first.content_type, first.headers) == (0, "text/csv", {"X-Count": "3"})
    assert (second.status, second.reason, second.content_type) == (404, "No city", "text/html")
    assert second.headers == {}
    assert (third.status, third.content_type) == (0, "application/json")


def test_what_cannot_be_sent_is_made_sendable(load: Load) -> None:
    """Broken characters and odd types in headers and errors never leave the process as they are."""
    served = load("""
        from http import HTTPStatus
        from ts.service import PredictionException
        def handle(data, context):
            if data is None:
                return
            context.set_response_status(HTTPStatus.NOT_FOUND, "\\ud800", idx=0)
            context.set_response_header(0, 5, "\\ud800")
            return ["", PredictionException("\\ud800", 10**30), PredictionException(None, "404")]
    """)
    (first,), (second,), (third,) = served.run(b"", b"", b"")
    assert isinstance(first, Chunk)
    assert (first.status, first.reason, first.headers) == (404, "?", {"5": "?"})
    assert type(first.status) is int
    assert isinstance(second, PredictionError)
    assert (second.message, second.status) == ("?", None)
    assert isinstance(third, PredictionError)
    assert (third.message, third.status) == ("None", None)


@pytest.mark.parametrize("code", ["0", "10**30", "None", "'x'"])
def test_status_that_is_none(load: Load, code: str) -> None:
    """A status code that no protocol has fails the batch where it is set."""
    source = f"def handle(data, context):\n  context.set_response_status({code})\n  return ['']"
    (error,) = load(source).errors(b"")
    assert error.message == "Prediction failed"


def test_all_statuses_at_once_and_an_explicit_200(load: Load) -> None:
    """set_all_response_status reaches every item; an explicit 200 counts as chosen."""
    served = load("""
        def handle(data, context):
            if data is None:
                return
            context.set_all_response_status(201)
            context.set_response_status(idx=1)
            return ["", ""]
    """)
    assert [chunk.status for chunk in served.chunks(b"", b"")] == [201, 200]


@pytest.mark.parametrize(
    ("failure", "message", "kind", "status"),
    [
        ("ValueError('secret')", "Prediction failed", ErrorKind.HANDLER_FAILED, None),
        ("MemoryError()", "Out of resources", ErrorKind.OUT_OF_MEMORY, None),
        ("RuntimeError('CUDA error')", "Out of resources", ErrorKind.OUT_OF_MEMORY, None),
        ("PredictionException('no city', 404)", "no city", ErrorKind.HANDLER_FAILED, 404),
        ("PredictionException('bad')", "bad", ErrorKind.HANDLER_FAILED, 500),
    ],
)
def test_exception_fails_the_batch(
    load: Load, failure: str, message: str, kind: ErrorKind, status: int | None
) -> None:
    """Every item gets the error; an exception's text stays in the log, its type does not."""
    served = load(f"""
        from ts.service import PredictionException
        def handle(data, context):
            if data is not None and data[0]["body"] == "bad":
                raise {failure}
            return ["fine"] * len(data or [])
    """)
    for error in served.errors("bad", "good"):
        assert (error.message, error.kind, error.status) == (message, kind, status)
    assert served.answer("good") == [b"fine"]


def test_exception_text_goes_to_the_log(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    """The log holds the traceback of a failed batch."""
    served = load("def handle(data, context):\n  assert data is None, 'what happened'")
    with caplog.at_level(logging.WARNING):
        served.errors(b"")
    assert "what happened" in caplog.text


def test_one_item_can_fail_alone(load: Load) -> None:
    """An unsupported item, or an exception in the list, fails that item only."""
    served = load("""
        from ts.utils.util import PredictionException
        def handle(data, context):
            return data and ["good", object(), PredictionException("no", 422)]
    """)
    (good,), (unsupported,), (own,) = served.run(b"", b"", b"")
    assert isinstance(good, Chunk)
    assert good.body == b"good"
    assert isinstance(unsupported, PredictionError)
    assert unsupported.message == "Unsupported model output data type."
    assert isinstance(own, PredictionError)
    assert (own.message, own.status) == ("no", 422)


def test_an_exception_without_a_text(load: Load) -> None:
    """One whose `str` fails is an error like any other; TorchServe's worker ends with it."""
    served = load("""
        class Speechless(Exception):
            def __str__(self):
                raise RuntimeError("no words")
        def handle(data, context):
            if data is not None and data[0]["body"] == "bad":
                raise Speechless
            return ["fine"] * len(data or [])
    """)
    assert [error.message for error in served.errors("bad")] == ["Prediction failed"]
    assert served.answer("good") == [b"fine"]


@pytest.mark.parametrize("failure", ["SystemExit(3)", "KeyboardInterrupt", "CancelledError"])
def test_what_ends_a_process_ends_one_batch_only(
    load: Load, caplog: pytest.LogCaptureFixture, failure: str
) -> None:
    """sys.exit in a request is that batch's error, and logged; the worker answers the next."""
    served = load(f"""
        from asyncio import CancelledError
        def handle(data, context):
            if data is not None and data[0]["body"] == "bad":
                raise {failure}
            return ["fine"] * len(data or [])
    """)
    name = failure.partition("(")[0]
    for error in served.errors("bad", "good"):
        assert (error.message, error.kind) == (
            "Prediction failed",
            ErrorKind.HANDLER_FAILED,
        )
    assert name in caplog.text
    assert served.answer("good") == [b"fine"]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            "sys.exit('no licence')",
            r"called sys\.exit while loading: .*no licence.*my_handler\.py:2",
        ),
        ("sys.exit()", r"called sys\.exit while loading: SystemExit \(my_handler\.py:2\)"),
        ("raise_signal(SIGINT)", "KeyboardInterrupt"),
    ],
)
def test_exit_while_loading(load: Load, failure: str, message: str) -> None:
    """A handler that leaves while it loads is a failed load that says so, with its place."""
    with pytest.raises(LoadError, match=message) as caught:
        load(f"import sys; from signal import SIGINT, raise_signal\n{failure}\n")
    assert caught.value.kind is ErrorKind.LOAD_FAILED


def test_stream(load: Load) -> None:
    """Each intermediate response is one chunk per item; the return value is the last chunk."""
    served = load("""
        from ts.handler_utils.utils import send_intermediate_predict_response
        def handle(data, context):
            if data is None:
                return
            context.set_response_status(206, idx=0)
            for number in range(2):
                send_intermediate_predict_response(
                    [f"{row['body']}{number} " for row in data],
                    context.request_ids, "Intermediate", 200, context)
            return [{"done": True} for row in data]
    """)
    first, second = served.run("a", "b")
    assert [chunk.body for chunk in first] == [b"a0 ", b"a1 ", b'{\n  "done": true\n}']
    assert [chunk.last for chunk in second] == [False, False, True]
    assert [chunk.status for chunk in first] == [206, 206, 206]


def test_stream_that_fails(load: Load) -> None:
    """An exception after the first chunk is the end of every item's stream."""
    served = load("""
        from ts.protocol.otf_message_handler import send_intermediate_predict_response
        def handle(data, context):
            if data is None:
                return
            send_intermediate_predict_response(["x", object()], context.request_ids, "", 200, context)
            raise KeyError("lost")
    """)
    first, second = served.run(b"", b"")
    assert [type(outcome) for outcome in first] == [Chunk, PredictionError]
    assert [str(outcome) for outcome in second] == ["Unsupported model output data type."]


def test_stream_outside_a_batch(load: Load) -> None:
    """A chunk can only be sent while a batch runs."""
    with pytest.raises(LoadError, match="no request is running"):
        load("""
            from ts.handler_utils.utils import send_intermediate_predict_response
            def handle(data, context):
                send_intermediate_predict_response([], {}, "", 200, context)
        """)


def test_metrics_are_kept_until_drained(load: Load) -> None:
    """context.metrics collects samples with the batch's request ids; drain empties it."""
    served = load("""
        from ts.metrics.dimension import Dimension
        def handle(data, context):
            if data is None:
                return
            dimensions = [Dimension("City", "Ulm")]
            context.metrics.add_counter("Words", 5, idx=1, dimensions=dimensions)
            assert len(dimensions) == 1
            return ["", ""]
    """)
    first, second = served.item(b""), served.item(b"")
    served.run(first, second)
    samples = {sample.name: sample for sample in served.runner.context.metrics.drain()}
    words = samples["Words"]
    assert (words.value, words.unit, words.request_id) == (5, "Count", second.id)
    assert words.dimensions == (("City", "Ulm"), ("ModelName", "tiny"), ("Level", "Model"))
    assert samples["PredictionTime"].request_id == f"{first.id},{second.id}"
    assert served.runner.context.metrics.drain() == []


def test_own_handler_in_info(load: Load) -> None:
    """`info` calls a user's handler its own, and the runner asks for no batch size."""
    served = load("def handle(data, context):\n  return data")
    assert served.runner.info == {"handler": "own"}
    assert served.runner.default_batch_size is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("a: [1\nb: 2\n", "model-config.yaml is not valid YAML: .*line 2"),
        ("- a\n- b\n", "model-config.yaml, line 1: it must be a mapping .* not list"),
        ("x: 2024-99-99\n", "model-config.yaml holds a value that YAML cannot represent: month"),
        ("x: " + "[" * 5000, "model-config.yaml is nested more than 64 levels deep"),
    ],
)
def test_wrong_configuration(load: Load, config: str, message: str) -> None:
    """A configuration that cannot be read fails the load with its name and the reason."""
    with pytest.raises(LoadError, match=f"^The model's configuration {message}"):
        load("def handle(data, context): pass", config=config)


def test_empty_configuration(load: Load) -> None:
    """An empty document is an empty configuration."""
    source = "def handle(data, context):\n  return data and [context.model_yaml_config]"
    assert load(source, config="# nothing\n").answer(b"") == [b"{}"]


def test_users_handler_section_is_their_own(load: Load) -> None:
    """Keys that mean something to the native handler are free for a user's handler."""
    source = "def handle(data, context):\n  return data and [context.model_yaml_config['handler']]"
    served = load(source, config="handler:\n  max_length: many\n  mode: 7\n")
    assert json.loads(served.answer(b"")[0]) == {"max_length": "many", "mode": 7}


def test_wrong_handler_mode(load: Load) -> None:
    """A handler_mode that does not exist is named with the ones that do."""
    with pytest.raises(LoadError, match=r"handler_mode.*'nativ'.*auto, native, as-is"):
        load("def handle(data, context): pass", config="handler:\n  handler_mode: nativ\n")


def test_out_of_memory_while_loading(load: Load) -> None:
    """A load that runs out of memory says so by its kind."""
    with pytest.raises(LoadError) as caught:
        load("def handle(data, context):\n  raise MemoryError('16 GB')")
    assert caught.value.kind is ErrorKind.OUT_OF_MEMORY
    assert "MemoryError: 16 GB (my_handler.py:2)" in str(caught.value)


def test_archive_is_first_on_the_import_path(load: Load) -> None:
    """Modules beside the handler win over installed ones of the same name."""
    served = load(
        {
            "my_handler.py": "import helper\ndef handle(data, context):\n  return [helper.NAME]",
            "helper.py": "NAME = 'ours'",
        }
    )
    assert served.answer(b"") == [b"ours"]
    assert sys.path[0].endswith("archive")
