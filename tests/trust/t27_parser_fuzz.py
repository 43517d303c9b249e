"""T27: parsers of strangers' bytes answer with their own errors, whatever is done to their inputs.

A mutation fuzzer of our own, not atheris: the parsers are Python or libraries that were fuzzed
upstream, a run has to repeat by its seed on every supported Python, and a wheel of 34 MB that is
built for some of them is much for that.
"""

import logging
import random
import time
from collections.abc import Callable
from urllib.parse import quote

import msgspec

from flambeau.archive.entries import Limits
from flambeau.archive.manifest import decode_manifest
from flambeau.archive.unpack import extract
from flambeau.config.properties import read_properties
from flambeau.errors import FlambeauError
from flambeau.frontend.heads import Head
from flambeau.ipc import framing
from flambeau.ipc.framing import FrameDecoder, FramingError
from flambeau.ipc.frontend_messages import FromFrontEnd, Withdraw
from flambeau.protocols import forms, parameters
from flambeau.protocols.http import check_path
from flambeau.protocols.prediction import query_parameters
from tests.trust.forged_mars import good_mar
from tests.trust.suite import Figures, Limit, Run, Suite

Target = Callable[[bytes], object]

_SLOW_SECONDS = 1.0
_INTERESTING = [
    b"\x00", b"\xff" * 4, b"\x7f\xff\xff\xff", b"%", b"%zz", b"\\u", b"\r\n", b"--", b"[" * 100,
    b"{" * 100, b'"', b"9" * 5000, b"-1", b"../", b"\xed\xa0\x80", b"=", b"&", b";", b"\\", b"${x}",
]  # fmt: skip


def run(run: Run) -> Figures:
    """Mutate seeds, and give them to their parser; only its own errors may come."""
    logging.disable(logging.CRITICAL)
    random_ = run.random()
    total = run.amount(200_000, 2_000_000, 20_000)
    crashes: list[str] = []
    executed = slow = 0
    targets = _targets(run)
    shares = {"archive": 0.01, "config": 0.05}
    for name, (target, seeds) in targets.items():
        pool = list(seeds)
        for _ in range(int(total * shares.get(name, 1 / len(targets)))):
            data = _mutated(random_, random_.choice(pool))
            if len(data) < 20_000 and random_.random() < 0.01:
                pool[random_.randrange(len(pool))] = data
                pool[: len(seeds)] = seeds
            started = time.process_time()
            executed += 1
            try:
                target(data)
            except (FlambeauError, FramingError):
                pass
            except Exception as error:  # noqa: BLE001  # a crash is what is looked for
                crashes.append(f"{name}: {type(error).__name__} {error} {data[:60]!r}")
            slow += time.process_time() - started > _SLOW_SECONDS
    return {
        "execs": executed, "crashes": len(crashes), "slow": slow, "targets": len(targets),
        "first_crash": crashes[0][:300] if crashes else "",
    }  # fmt: skip


def _mutated(random_: random.Random, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(random_.randrange(1, 5)):
        place = random_.randrange(len(data) + 1)
        match random_.randrange(5):
            case 0 if data:
                data[place - 1] ^= 1 << random_.randrange(8)
            case 1:
                del data[place : place + random_.randrange(1, 16)]
            case 2:
                data[place:place] = data[place : place + random_.randrange(1, 64)]
            case 3:
                data[place:place] = random_.choice(_INTERESTING)
            case _:
                data[place:place] = random_.randbytes(random_.randrange(1, 5))
    return bytes(data)


def _targets(run: Run) -> dict[str, tuple[Target, list[bytes]]]:
    file = run.folder / "config.properties"
    archive = run.folder / "m.mar"
    archive.write_bytes(good_mar())
    limits = Limits(entries=100, total_bytes=1 << 20, ratio=20, ratio_floor_bytes=1 << 20, depth=16)

    def config(data: bytes) -> object:
        file.write_bytes(data)
        return read_properties(file, {})

    def unpack(data: bytes) -> object:
        archive.write_bytes(data)
        folder = run.folder / f"out{time.monotonic_ns()}"
        folder.mkdir()
        with archive.open("rb") as opened:
            return extract(opened, "m.mar", folder, limits)

    def frames(data: bytes) -> object:
        return list(FrameDecoder(FromFrontEnd).feed(data))  # type: ignore[arg-type]  # a union

    def query(data: bytes) -> object:
        return query_parameters({"query_string": data})

    def path(data: bytes) -> object:
        head = Head()
        head.url = b"/" + quote(data, safe="/%?&=;").encode()
        check_path(head.url)
        return head.scope({}, "GET", "1.1")

    multipart = (
        b'--b\r\nContent-Disposition: form-data; name="data"; filename="a"\r\nContent-Type: a/b\r\n'
    )
    return {
        "urlencoded": (lambda data: forms.read_fields(forms.FORM, data), [b"a=b&c=%41+d&e="]),
        "multipart": (
            lambda data: forms.read_fields("multipart/form-data; boundary=b", data),
            [multipart + b"\r\nxyz\r\n--b--\r\n"],
        ),
        "content type": (
            lambda data: forms.read_fields(data.decode("latin-1"), multipart),
            [b'multipart/form-data; boundary="b"; charset=utf-8'],
        ),
        "json": (parameters._json_parameters, [b'{"url": "m.mar", "batch_size": 1, "x": [true, null]}']),
        "query": (query, [b"a=b&model_name=%41&c"]),
        "path": (path, [b"predictions/m/1.0?x=1", b"v1/models/m:predict"]),
        "manifest": (
            decode_manifest,
            [b'{"model": {"modelName": "m", "modelVersion": "1.0", "handler": "h.py:x"}, "x": 1}'],
        ),
        "frames": (frames, [bytes(framing.encode(Withdraw(7)))]),
        "config": (config, [b"inference_address=http://127.0.0.1:80\n# x\nmodels={\"a\":\\\n1}\nb : c\\u0041"]),
        "archive": (unpack, [archive.read_bytes()]),
    }  # fmt: skip


def _errors_of_the_library() -> None:
    """Let what the codec's library raises through."""

    def carelessly(self: FrameDecoder[object], payload: bytes | memoryview) -> object:
        return self._decoder.decode(payload)

    FrameDecoder.decode = carelessly  # type: ignore[method-assign, assignment]  # the flaw
    assert msgspec.DecodeError not in FramingError.__mro__


SUITE = Suite(
    name="t27",
    title="parser_fuzz",
    promises=("G20",),
    limits=(
        Limit("execs", low=15_000),
        Limit("targets", low=10),
        Limit("crashes", exactly=0),
        Limit("slow", exactly=0),
    ),
    controls={"library-errors": _errors_of_the_library},
    run=run,
)
