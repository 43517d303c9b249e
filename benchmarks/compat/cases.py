"""The requests, in the order in which they are sent. Later ones see what earlier ones changed."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Case(NamedTuple):
    """One request. `port` is `inference`, `management` or `metrics`; `key` names a key of the key file.

    `wait` says what must be so before the answer is looked at: nothing, or that model READY.
    """

    name: str
    port: str
    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    key: str = ""


def all_cases() -> list[Case]:
    """Everything that is asked with tokens off."""
    groups = (_bodies, _results, _statuses, _failures, _routes, _sagemaker, _kserve, _metrics)
    groups += (_listing, _describing, _registering, _scaling, _versions, _unregistering)
    cases = [case for group in groups for case in group()]
    _check_names(cases)
    return cases


def token_cases() -> list[Case]:
    """What is asked with tokens on: each port with no key, each key, and wrong forms of it."""
    cases = []
    calls = (
        ("inference", "POST", "/predictions/function"),
        ("inference", "GET", "/ping"),
        ("inference", "GET", "/nowhere"),
        ("inference", "OPTIONS", "/"),
        ("management", "GET", "/models"),
        ("management", "GET", "/api-description"),
        ("metrics", "GET", "/metrics"),
    )
    for port, method, path in calls:
        for key in ("", "inference", "management", "API"):
            name = f"token {key or 'none'} {method} {path} on {port}"
            cases.append(Case(name, port, method, path, key=key))
    wrong = (
        ("Bearer wrong",),
        ("bearer {inference}",),
        ("Bearer   {inference}",),
        ("{inference}",),
    )
    for (value,) in wrong:
        headers = (("Authorization", value),)
        name = f"token as {value!r}"
        cases.append(Case(name, "inference", "POST", "/predictions/function", headers=headers))
    for query, key in (("type=inference", "API"), ("type=cake", "API"), ("", "API")):
        cases.append(
            Case(f"token renew {query!r}", "management", "GET", f"/token?{query}", key=key)
        )
    cases.append(
        Case(
            "token renew by management",
            "management",
            "GET",
            "/token?type=inference",
            key="management",
        )
    )
    _check_names(cases)
    return cases


def _check_names(cases: Sequence[Case]) -> None:
    names = [case.name for case in cases]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise ValueError(f"cases of the same name: {doubled}")


def _predict(name: str, body: bytes = b"", *headers: tuple[str, str], model: str = "probe") -> Case:
    return Case(name, "inference", "POST", f"/predictions/{model}", body, headers)


MULTIPART = (
    b'--XX\r\nContent-Disposition: form-data; name="data"; filename="a.json"\r\n'
    b'Content-Type: application/json\r\n\r\n{"a": 1}\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n\x00\x01\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="text"; filename="a.txt"\r\n'
    b"Content-Type: text/plain\r\n\r\nwords\r\n"
    b'--XX\r\nContent-Disposition: form-data; name="plain"\r\n\r\nvalue\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="plain"\r\n\r\nvalue 2\r\n--XX--\r\n'
)


def _bodies() -> Iterator[Case]:
    bodies = {
        "object": b'{"a": 1}', "array": b"[1, 2]", "number": b"3", "string": b'"x"', "null": b"null",
        "broken json": b'{"a": ', "text": b"some text", "utf-8": "é中".encode(), "latin": b"\xe9",
        "nothing": b"",
    }  # fmt: skip
    types = ("", "application/json", "application/json; charset=utf-8", "text/plain")
    for label, body in bodies.items():
        for kind in types:
            headers = (("content-type", kind),) if kind else ()
            yield _predict(f"body {label} as {kind or 'nothing'}", body, *headers)
    for kind in ("Application/JSON", "application/octet-stream", "text/html", "image/png"):
        yield _predict(f"body object as {kind}", b'{"a": 1}', ("content-type", kind))
    form = ("content-type", "application/x-www-form-urlencoded")
    for label, text in (
        ("two", b"a=1&b=2"),
        ("repeated", b"a=1&a=2"),
        ("escaped", b"a=%20+b&c="),
        ("JSON", b'{"x": 1}'),
        ("bare last", b"a=&b"),
        ("bare first", b"a&b=1"),
    ):
        yield _predict(f"form {label}", text, form)
    multipart = ("content-type", "multipart/form-data; boundary=XX")
    yield _predict("multipart all kinds of parts", MULTIPART, multipart)
    yield _predict("multipart garbage", b"garbage", multipart)
    yield _predict("multipart no boundary", MULTIPART, ("content-type", "multipart/form-data"))
    yield _predict("gzip is not decoded", b"\x1f\x8b", ("content-encoding", "gzip"))
    yield Case("query on predictions", "inference", "POST", "/predictions/probe?a=1", b"x")


def _results() -> Iterator[Case]:
    kinds = "dict list str empty bytes bytearray int float bool none nan tuple nested unicode set object"
    for kind in kinds.split():
        yield _predict(f"result {kind}", b"", ("x-do", "result"), ("x-result", kind))
    yield _predict("result tensor", b"", ("x-do", "tensor"))
    for kind in ("dict", "str", "none", "tuple", "long", "short", "tensor"):
        yield _predict(f"whole answer {kind}", b"", ("x-do", "whole"), ("x-result", kind))
    yield _predict("stream", b"", ("x-do", "stream"))
    yield _predict("stream of dicts", b"", ("x-do", "stream-dicts"))


def _statuses() -> Iterator[Case]:
    for code in (200, 201, 204, 302, 400, 404, 418, 429, 500, 503, 599):
        yield _predict(f"status {code}", b"", ("x-do", "status"), ("x-code", str(code)))
    yield _predict("status for all", b"", ("x-do", "status-all"), ("x-code", "202"))
    yield _predict("own headers", b"", ("x-do", "own-headers"))
    for kind in ("application/json", "text/csv; charset=utf-8"):
        yield _predict(f"own content type {kind}", b"", ("x-do", "content-type"), ("x-type", kind))


def _failures() -> Iterator[Case]:
    for kind in ("value", "memory", "cuda", "key"):
        yield _predict(f"raise {kind}", b"", ("x-do", "raise"), ("x-result", kind))
    yield _predict("after an error", b"still there")
    for code in (400, 404, 413, 429, 500, 503, 507):
        yield _predict(
            f"PredictionException {code}", b"", ("x-do", "predict-error"), ("x-code", str(code))
        )
    yield _predict("PredictionException plain", b"", ("x-do", "predict-error-plain"))
    yield _predict("a worker that exits", b"", ("x-do", "exit"))


def _routes() -> Iterator[Case]:
    head = (("x-do", "headers"), ("x-one", "1"), ("X-Two", "2"))
    for method in ("GET", "PUT", "DELETE", "PATCH", "BREW"):
        yield Case(f"{method} predicts", "inference", method, "/predictions/function")
    for path in (
        "/predictions/probe", "/predictions/probe/", "/predictions/probe/1.0",
        "/predictions/probe/1.0/", "/predictions/probe/1.0/v1/chat/completions",
        "/explanations/probe", "/explanations/probe/1.0",
    ):  # fmt: skip
        yield Case(f"headers on {path}", "inference", "POST", path, b"x", head)
    tricks = (("x-do", "headers"), ("explain", "True"), ("url_path", "mine"))
    yield Case("forged headers", "inference", "POST", "/predictions/probe", b"", tricks)
    for path in (
        "/ping", "/ping/", "/ping/more", "/predictions", "/predictions/", "/nowhere", "/",
        "/predictions/nope", "/predictions/probe/9", "/predictions/Probe", "/predictions/pro%62e",
        "/explanations/nope", "/models", "/v2", "/v2/health/live", "/%zz", "/metrics",
        "/wfpredict/nope", "/predictions/%E4%B8%AD",
    ):  # fmt: skip
        yield Case(f"GET {path}", "inference", "GET", path)
    yield Case("POST /ping", "inference", "POST", "/ping")
    for port in ("inference", "management"):
        yield Case(f"OPTIONS / on {port}", port, "OPTIONS", "/")
        yield Case(f"api-description on {port}", port, "GET", "/api-description")
    yield Case("OPTIONS of a model", "inference", "OPTIONS", "/predictions/probe")
    yield Case("OPTIONS of no model", "inference", "OPTIONS", "/predictions/nope")
    yield Case("OPTIONS of a managed model", "management", "OPTIONS", "/models/probe")


def _sagemaker() -> Iterator[Case]:
    yield Case("invocations with no name", "inference", "POST", "/invocations", b"x")
    query = "/invocations?model_name=probe"
    yield Case("invocations by query", "inference", "POST", query, b"x")
    yield Case("invocations with parameters", "inference", "POST", f"{query}&a=1", b"x")
    form = (("content-type", "application/x-www-form-urlencoded"),)
    body = b"model_name=probe&b=2"
    yield Case("invocations by form", "inference", "POST", "/invocations", body, form)
    yield Case("invocations of nobody", "inference", "POST", "/invocations?model_name=nope", b"x")
    yield Case("invoke", "inference", "POST", "/models/probe/invoke?a=1", b"x")
    yield Case("invoke nobody", "inference", "POST", "/models/nope/invoke", b"x")
    yield Case("legacy", "inference", "POST", "/probe/predict?a=1", b"x")
    yield Case("legacy with a version", "inference", "POST", "/probe/1.0/predict", b"x")
    yield Case("legacy nobody", "inference", "POST", "/nope/predict", b"x")


def _kserve() -> Iterator[Case]:
    for path in (
        "/v1/models/probe:predict", "/v1/models/probe:explain", "/v2/models/probe/infer",
        "/v2/models/probe/explain", "/v1/models/nope:predict", "/v2/models/nope/infer",
    ):  # fmt: skip
        yield Case(f"POST {path}", "inference", "POST", path, b'{"instances": [1]}')
    for path in ("/v1/models/probe", "/v1/models/nope"):
        yield Case(f"GET {path} on management", "management", "GET", path)


def _metrics() -> Iterator[Case]:
    yield _predict("a handler's metrics", b"", ("x-do", "metric"))
    yield Case("metrics", "metrics", "GET", "/metrics")
    for name in ("ts_inference_requests_total", "Requests2XX", "nothing"):
        yield Case(f"metrics {name}", "metrics", "GET", f"/metrics?name[]={name}")
    yield Case("POST metrics", "metrics", "POST", "/metrics")
    yield Case("metrics elsewhere", "metrics", "GET", "/nowhere")


def _listing() -> Iterator[Case]:
    for query in ("", "?limit=2", "?limit=2&next_page_token=2", "?limit=0", "?limit=-1", "?limit=x",
                  "?next_page_token=9", "?next_page_token=x", "?limit=1&next_page_token=1"):  # fmt: skip
        yield Case(f"list {query}", "management", "GET", f"/models{query}")
    for method, path in (("PATCH", "/models"), ("PUT", "/models"), ("POST", "/models/probe"),
                         ("GET", "/nowhere"), ("GET", "/"), ("PUT", "/predictions/probe")):  # fmt: skip
        yield Case(f"{method} {path} on management", "management", method, path)


def _describing() -> Iterator[Case]:
    for path in ("probe", "probe/1.0", "probe/all", "nope", "probe/9", "nope/all", "probe/",
                 "probe?customized=true", "probe?customized=TRUE", "function?customized=true",
                 "probe/1.0/set-default", "probe/1.0/nonsense"):  # fmt: skip
        yield Case(f"describe {path}", "management", "GET", f"/models/{path}")


def _post(name: str, query: str, body: bytes = b"", kind: str = "") -> Case:
    headers = (("content-type", kind),) if kind else ()
    return Case(name, "management", "POST", f"/models{query}", body, headers)


def _registering() -> Iterator[Case]:
    yield _post("register nothing", "")
    yield _post("register form", "", b"url=other.mar", "application/x-www-form-urlencoded")
    for label, url in (("empty", ""), ("missing", "missing.mar"), ("relative", "../other.mar"),
                       ("garbage", "garbage.mar"), ("nameless", "nameless.mar"),
                       ("modelless", "modelless.mar"), ("runtimeless", "runtimeless.mar"),
                       ("scrambled", "scrambled.mar"), ("ftp", "ftp://127.0.0.1/nope.mar"),
                       ("refused", "http://127.0.0.1:9/x.mar")):  # fmt: skip
        yield _post(f"register {label}", f"?url={url}")
    yield _post("register bad runtime", "?url=other.mar&runtime=foo")
    yield _post("register no workers", "?url=other.mar")
    yield Case("predict without workers", "inference", "POST", "/predictions/other", b"x")
    yield Case("describe without workers", "management", "GET", "/models/other")
    yield Case("customized without workers", "management", "GET", "/models/other?customized=true")
    yield _post("register twice", "?url=other.mar")
    yield _post("register renamed", "?url=other.mar&model_name=renamed&initial_workers=1")
    yield Case("predict renamed", "inference", "POST", "/predictions/renamed", b"x")
    yield _post("register by path", "?url=/abs/other.mar&model_name=bypath")
    yield _post(
        "register other handler", "?url=probe.mar&model_name=h&handler=nope.py:f&initial_workers=1"
    )
    yield _post("register configured", "?url=configured.mar&batch_size=5&initial_workers=1")
    yield Case("describe configured", "management", "GET", "/models/configured")
    yield _post("register failing", "?url=failing.mar&initial_workers=1")
    json_type = "application/json"
    yield _post("register json", "", b'{"url": "other.mar", "model_name": "json"}', json_type)
    yield Case("describe json", "management", "GET", "/models/json")
    yield _post("register json broken", "", b"{", json_type)
    yield _post("register json empty", "", b"", json_type)
    yield _post("register json no url", "", b"{}", json_type)
    yield _post(
        "register timeouts", "?url=other.mar&model_name=t&response_timeout=33&startup_timeout=44"
    )
    yield Case("describe timeouts", "management", "GET", "/models/t")
    yield _post("register second version", "?url=second.mar&initial_workers=1")


def _scaling() -> Iterator[Case]:
    put = ("management", "PUT")
    yield Case("scale sync", *put, "/models/renamed?min_worker=2&synchronous=true")
    yield Case("scale down sync", *put, "/models/renamed/1.0?min_worker=1&synchronous=true")
    yield Case("scale async", *put, "/models/bypath?min_worker=1")
    yield Case("scale max below min", *put, "/models/renamed?min_worker=2&max_worker=1")
    yield Case("scale words", *put, "/models/renamed?min_worker=x&synchronous=true")
    yield Case("scale nobody", *put, "/models/nope?min_worker=1")
    yield Case("scale no version", *put, "/models/renamed/9?min_worker=1")
    yield Case("scale to nothing", *put, "/models/renamed?min_worker=0&synchronous=true")
    yield Case("predict scaled to nothing", "inference", "POST", "/predictions/renamed", b"x")
    yield Case("versioned scaled to nothing", "inference", "POST", "/predictions/renamed/1.0", b"x")
    yield Case("ping scaled to nothing", "inference", "GET", "/ping")


def _versions() -> Iterator[Case]:
    yield Case("versions all", "management", "GET", "/models/versions/all")
    yield Case("default answers", "inference", "POST", "/predictions/versions", b"x")
    yield Case("second answers", "inference", "POST", "/predictions/versions/2.0", b"x")
    yield Case("set default", "management", "PUT", "/models/versions/2.0/set-default")
    yield Case("set default of nobody", "management", "PUT", "/models/nope/2.0/set-default")
    yield Case("set default to nothing", "management", "PUT", "/models/versions/9/set-default")
    yield Case("described by default", "management", "GET", "/models/versions")
    yield Case("list by default", "management", "GET", "/models?limit=100")


def _unregistering() -> Iterator[Case]:
    delete = ("management", "DELETE")
    yield Case("unregister default", *delete, "/models/versions/2.0")
    yield Case("unregister version", *delete, "/models/versions/1.0")
    yield Case("unregister last", *delete, "/models/versions")
    yield Case("unregister again", *delete, "/models/versions")
    yield Case("unregister no version", *delete, "/models/probe/9")
    yield Case("predict unregistered", "inference", "POST", "/predictions/versions", b"x")
