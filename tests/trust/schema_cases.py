"""Requests made from OpenAPI documents: each operation and parameter, right, at its limits, and wrong."""

import json
import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec

CHANGES = {"registerModel", "setAutoScale", "unregisterModel", "setDefault"}
"""Ids of operations, `version_` aside, that may await workers; they get no model that others ask."""

_TEXTS = [
    "", " ", ".", "..", "../../etc/passwd", "%", "%00", "a\0b", "é", "\U0001f525", "\u202e", "\ud800",
    "n" * 300, "n" * 5000, "a/b", "a?b#c", "a b", "'\"<>&;", "{model_name}", "null", "-", "all", "\r\nx: y",
    "http://127.0.0.1:1/x.mar", "file:///etc/passwd", "%c0%af", "e\u0301",
]  # fmt: skip
_NUMBERS = [
    "-1", "0", "1", "2147483648", "-2147483649", "9" * 400, "9" * 5000, "1e9", "0x10", "1.5", "NaN",
    "-0", "+1", "1_0", " 1 ", "\u0663", "", "true", "Infinity", "[]",
]  # fmt: skip
_BOOLEANS = ["true", "false", "TRUE", "1", "", "maybe", "\0", "yes" * 99]
_ODD_JSON = [
    "[" * 3000, '{"a":' * 3000, "9" * 5000, "1e999999", '"\\ud800"', "NaN", "{", "", "null", "[]", '"x"',
    '{"url": 1}', '{"url": null}', '{"url": ["a"]}', '{"url": "\\u0000"}', '{"url": "\\ud800"}',
    '{"url": "absent.mar", "batch_size": 1e400}', '{"url": {"url": {}}}', '{"": ""}', "\ufeff{}", "\0",
    '{"a": 1, "a": 2}', '{"instances": 7}', '{"inputs": {}}', '{"inputs": [[]]}', '{"inputs": [null]}',
]  # fmt: skip
_SHAPES: list[object] = [
    [2], [2**63], [2**31, 2**33], [-1], [0], [], "x", None, [1.5], [2] * 70, [2**64 - 1, 2], [[2]], ["2"],
    [1e300],
]  # fmt: skip
_TYPES = ["FP32", "INT64", "BYTES", "BOOL", "FP8", "", None, 7, "fp32" * 99]
_MEDIA = [
    "application/json", "application/octet-stream", "text/plain", "", "a/b/c", "application/json; charset=x",
    "multipart/form-data", 'multipart/form-data; boundary=""', "application/x-www-form-urlencoded; x",
]  # fmt: skip
_LARGE = 70_000


class Case(msgspec.Struct, frozen=True):
    """One request: `key` says which key it carries, `waits` that it may await workers."""

    operation: str
    listener: str
    method: str
    target: str
    declared: dict[str, Any]
    key: str = "right"
    media_type: str = ""
    body: bytes = b""
    waits: bool = False
    expected: tuple[int, ...] = ()


class Maker:
    """Makes cases of the operations that the documents, by listener, describe."""

    def __init__(self, documents: dict[str, dict[str, Any]], chance: random.Random) -> None:
        self._chance = chance
        self._operations = [
            (listener, method, path, operation)
            for listener, document in documents.items()
            for path, item in document["paths"].items()
            if "servers" not in item
            for method, operation in item.items()
        ]
        self._by_id = {(each[0], each[3]["operationId"]): each for each in self._operations}
        self._sequences = 0

    def cases(self) -> Iterator[Case]:
        """One of each operation as it should be, and then without end of any."""
        for each in self._operations:
            if _plain_id(each[3]) not in CHANGES:
                yield self._make(*each, odd=0.0)
        quick = [each for each in self._operations if _plain_id(each[3]) not in CHANGES]
        while True:
            # Changes cost a process or a walk through the store; the rest is most of the surface.
            chosen = self._operations if self._chance.random() < 0.4 else quick
            yield self._make(*self._chance.choice(chosen), odd=0.3)

    def sequence(self, steps: int) -> list[Case]:
        """The life of one model that nobody else knows, in an order that chance decides."""
        self._sequences += 1
        name = f"life{self._sequences}"
        there, workers = False, 0
        cases: list[Case] = []
        for _ in range(steps):
            step = self._chance.choice(
                ["register", "describe", "scale", "ask", "default", "remove"]
            )
            step = self._chance.choice(["register", step]) if not there else step
            known = (200,) if there else (404,)
            if step == "register":
                new = int(self._chance.random() < 0.25)
                query = f"url=spare&model_name={name}&initial_workers={new}"
                known = (409,) if there else (200,)
                cases.append(self._step("registerModel", "", query, known))
                there, workers = True, workers if there else new
            elif step == "describe":
                cases.append(self._step("describeModel", name, "", known))
            elif step == "scale":
                new = int(self._chance.random() < 0.25)
                query = f"min_worker={new}&synchronous=true"
                cases.append(self._step("setAutoScale", name, query, known))
                workers = new
            elif step == "ask":
                answer = ((200,) if workers else (503,)) if there else known
                cases.append(self._step("predictions", name, "", answer, "inference"))
            elif step == "default":
                cases.append(self._step("setDefault", name, "", known))
            else:
                cases.append(self._step("unregisterModel", name, "", known))
                there = False
        return [*cases, self._step("unregisterModel", name, "", (200,) if there else (404,))]

    def _step(
        self, name: str, model: str, query: str, expected: tuple[int, ...], of: str = "management"
    ) -> Case:
        listener, method, path, operation = self._by_id[of, name]
        path = path.replace("{model_name}", model).replace("{model_version}", "1.0")
        return Case(
            name, listener, method.upper(), f"{path}?{query}", operation["responses"],
            waits=True, expected=expected,
        )  # fmt: skip

    def _make(
        self, listener: str, method: str, path: str, operation: dict[str, Any], *, odd: float
    ) -> Case:
        change = _plain_id(operation) in CHANGES
        query: list[tuple[str, str]] = []
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                value = self._path_value(parameter["name"], change=change, odd=odd)
                path = path.replace("{" + parameter["name"] + "}", _quoted(value))
            elif odd == 0.0 or self._chance.random() < 0.6:
                query.append((parameter["name"], self._value(parameter, odd=odd)))
        if query and self._chance.random() < odd:
            query.append((self._chance.choice(query)[0], self._chance.choice(_TEXTS)))
        if self._chance.random() < odd / 3:
            query.append((self._chance.choice(_TEXTS), self._chance.choice(_TEXTS)))
        target = path + "?" * bool(query)
        target += "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in query)
        media_type, body = "", b""
        if "requestBody" in operation or (method == "post" and self._chance.random() < 0.3):
            media_type, body = self._body(odd)
        tensors = listener == "inference" and b'"inputs"' in body
        return Case(
            operation["operationId"], "tensors" if tensors else listener, method.upper(), target,
            operation["responses"], self._key(odd), media_type, body, waits=change,
        )  # fmt: skip

    def _key(self, odd: float) -> str:
        return (
            self._chance.choice(["none", "wrong", "other"])
            if self._chance.random() < odd / 4
            else "right"
        )

    def _path_value(self, name: str, *, change: bool, odd: float) -> str:
        if self._chance.random() < odd:
            return self._chance.choice(_TEXTS) or "-"
        if name == "model_version":
            return self._chance.choice(["1.0", "1.0", "1.0", "2.0", "all"]) if odd else "1.0"
        if name == "url_path":
            return "more"
        return self._chance.choice(["fuzz", "spare", "absent"]) if change else "stub"

    def _value(self, parameter: dict[str, Any], *, odd: float) -> str:
        """A value of a parameter; `odd` is the chance that it is not of its type, or at its limits."""
        name, schema = parameter["name"], parameter["schema"]
        wrong = self._chance.random() < odd
        if "enum" in schema:
            return str(self._chance.choice(_TEXTS if wrong else schema["enum"]))
        match schema["type"]:
            case "integer" | "number":
                return self._chance.choice([*_NUMBERS, *_TEXTS] if wrong else ["0", "1"])
            case "boolean":
                return self._chance.choice(_BOOLEANS if wrong else _BOOLEANS[:2])
            case _:
                right = {"url": "spare", "model_version": "1.0", "model_name": "stub"}.get(
                    name, "x"
                )
                if name == "model_name" and wrong:
                    return self._chance.choice(["fuzz", *_TEXTS])
                return self._chance.choice(_TEXTS) if wrong else right

    def _body(self, odd: float) -> tuple[str, bytes]:
        """A media type and a body that may fit it."""
        chance = self._chance
        match chance.randrange(6):
            case 0:
                media_type, body = (
                    "application/json",
                    chance.choice([*_ODD_JSON, '{"a": 1}']).encode(),
                )
            case 1:
                media_type = "application/x-www-form-urlencoded"
                fields = [
                    (_quoted(chance.choice(_TEXTS)), _quoted(chance.choice(_TEXTS)))
                    for _ in range(4)
                ]
                body = "&".join("=".join(each) for each in fields).encode()
            case 2:
                media_type, body = "multipart/form-data; boundary=xx", self._multipart()
            case 3 | 4:
                media_type, body = "application/json", self._tensors()
            case _:
                media_type, body = (
                    "application/octet-stream",
                    chance.randbytes(chance.randrange(200)),
                )
        if chance.random() < odd:
            media_type = chance.choice(_MEDIA)
        if body and chance.random() < odd:
            place = chance.randrange(len(body))
            body = (
                body[:place]
                + chance.choice([b"", b"\0", b"\xff", b"}", body[:50]])
                + body[place + 1 :]
            )
        if chance.random() < odd / 30:
            body = b"9" * _LARGE
        return media_type, body

    def _multipart(self) -> bytes:
        parts = [
            '--xx\r\ncontent-disposition: form-data; name="{}"{}\r\n\r\n{}\r\n'.format(
                self._chance.choice(["data", "body", *_TEXTS]),
                self._chance.choice(["", '; filename="f"', "; filename*=utf-8''%ff"]),
                self._chance.choice(_TEXTS),
            )
            for _ in range(self._chance.randrange(4))
        ]
        return "".join([*parts, "--xx--\r\n"]).encode("utf-8", "surrogatepass")

    def _tensors(self) -> bytes:
        """KServe's requests, version 1 or 2: shapes that overflow, types and data that do not fit."""
        if self._chance.random() < 0.3:
            values: list[object] = [{}, 1, "x", None, [1] * 9, {"data": 1}, {"b64": "!"}]
            instances = [self._chance.choice(values) for _ in range(3)]
            return json.dumps({"instances": instances}).encode()
        tensor: dict[str, object] = {
            "name": self._chance.choice(["a", "", None, 3]),
            "shape": self._chance.choice(_SHAPES),
            "datatype": self._chance.choice(_TYPES),
            "data": self._chance.choice(
                [[1, 2], [], None, "AAAA", [[1], [2]], [2**70], ["a"], {}, [None]]
            ),
            "parameters": self._chance.choice(
                [{}, {"content_type": "np"}, 1, {"binary_data_size": 2**63}]
            ),
        }
        for name in list(tensor):
            if self._chance.random() < 0.1:
                del tensor[name]
        return json.dumps({"id": self._chance.choice(["1", 1, None]), "inputs": [tensor]}).encode()


def _plain_id(operation: dict[str, Any]) -> str:
    return str(operation["operationId"]).removeprefix("version_")


def _quoted(text: str) -> str:
    """A text percent-encoded; some have escapes already, which stay what they are."""
    if text in {"%c0%af", "%00"}:
        return text
    return quote(text.encode("utf-8", "surrogatepass"), safe="")
