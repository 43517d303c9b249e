"""The vulnerability ledger: what went wrong in other servers and their parts, and what shows that it cannot here.

Each row is one cause that others have published, with its ids, and the suites that would be red if
we had it, too. Sources: the CVE and GHSA records that the ids name.
"""

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One cause: whose it was, in one line, the ids of its records, and the suites that prove us free of it."""

    whose: str
    cause: str
    ids: str
    suites: tuple[str, ...]


def _row(whose: str, cause: str, suites: str, ids: str = "") -> Row:
    return Row(whose, cause, ids, tuple(suites.split()))


_TORCHSERVE = "TorchServe"
_TRITON = "Triton"
_VLLM = "vLLM"

LEDGER: tuple[Row, ...] = (
    # TorchServe, published
    _row(_TORCHSERVE, "register fetched any URL and ran its handler", "t4 t2", "CVE-2023-43654"),
    _row(_TORCHSERVE, "YAML built arbitrary objects", "t1 t27", "CVE-2022-1471"),
    _row(_TORCHSERVE, "the management API was open to the network", "t2 t3"),
    _row(_TORCHSERVE, "archive entries left their folder", "t5", "CVE-2023-48299"),
    _row(_TORCHSERVE, "a second register skipped the allow-list", "t4", "CVE-2024-35198"),
    _row(_TORCHSERVE, "gRPC was bound to all interfaces", "t2", "CVE-2024-35199"),
    # TorchServe 0.12, read in its source
    _row(_TORCHSERVE, "request bodies and weights went through torch.load", "t1 t12"),
    _row(_TORCHSERVE, "configFile of a manifest read any file as YAML", "t5"),
    _row(_TORCHSERVE, "requirementsFile of a manifest named any file for pip", "t5 t13"),
    _row(_TORCHSERVE, "a folder's absolute path was linked in and its code run", "t4"),
    _row(_TORCHSERVE, "downloads without time-out, cap or quarantine", "t4 t20"),
    _row(_TORCHSERVE, "containment by a prefix without separator, no caps", "t5"),
    _row(_TORCHSERVE, "short keys, compared as strings, /token by substring", "t3"),
    _row(_TORCHSERVE, "clients' Authorization and the server's environment in handlers", "t30"),
    _row(_TORCHSERVE, "snapshots written in place, errors swallowed", "t19"),
    _row(_TORCHSERVE, "requests past their deadline never answered", "t22"),
    _row(_TORCHSERVE, "a crash loses its requests, a worker is given up for good", "t8 t23"),
    _row(_TORCHSERVE, "slots stuck after a client left, no graceful stop", "t18 t22", "#1815, #2357, #2008"),
    # Triton
    _row(_TRITON, "memory by chunk count, by cancelled streams", "t6 t25 t22",
         "CVE-2025-23310, 23311, 23317, 23318, 23319, 23322, 23328, 23333, 23334, 33202; CVE-2024-0088, 0116;"
         " CVE-2026-24213, 24266, 47477, 47478"),
    _row(_TRITON, "products of dimensions and header numbers overflowed", "t6 t26",
         "CVE-2024-53880; CVE-2025-23321, 23323, 23324, 23326, 23327, 23335; CVE-2026-24173, 24174, 24210, 24214"),
    _row(_TRITON, "names and settings from clients became paths", "t9",
         "CVE-2023-31036; CVE-2024-0087, 0100; CVE-2026-24147, 24208, 24209, 47487, 47606, 47627, 47630"),
    _row(_TRITON, "nesting, decompression and outputs without a bound", "t6 t21",
         "CVE-2025-23325, 23331; CVE-2026-24146, 24158, 24264, 24215, 47476, 47479, 47482, 47628"),
    _row(_TRITON, "several front doors with separate checks", "t3",
         "CVE-2026-24206, 24207, 47481; CVE-2025-23329"),
    _row(_TRITON, "an error named an internal region: the first stage of an exploit", "t10",
         "CVE-2025-23320, 23319, 23334"),
    _row(_TRITON, "one bad header ended the process", "t25 t26",
         "CVE-2025-33201, 33211, 23268, 23336; CVE-2026-24175, 47480, 47629"),
    _row(_TRITON, "load/unload races, names into a shell, newlines into logs", "t15 t9 t10",
         "CVE-2025-33238, 33254, 23316; CVE-2024-0095, 0103"),
    # vLLM
    _row(_VLLM, "pickle on sockets", "t1",
         "CVE-2025-32444, 30165, 29783, 47277; CVE-2024-9052, 9053, 11041"),
    _row(_VLLM, "bound to every interface", "t2", "CVE-2025-30202"),
    _row(_VLLM, "tensors decoded from request bytes", "t1 t26",
         "CVE-2025-62164, 24357; CVE-2026-56340, 73557"),
    _row(_VLLM, "code from model repositories, guards by assert", "t12",
         "CVE-2025-66448, 9141; CVE-2026-22807, 27893, 47155, 41523"),
    _row(_VLLM, "regex, grammar and template bombs", "t7",
         "CVE-2025-48887, 71379, 62426, 61620; CVE-2026-55574"),
    _row(_VLLM, "one request killed the engine", "t8 t26",
         "CVE-2025-48942, 48943, 48944, 62372; CVE-2026-105757, 105754; CVE-2024-8768"),
    _row(_VLLM, "amounts without a bound, or checked after they were made", "t6",
         "CVE-2025-48956, 46560; CVE-2026-34756, 34755, 22773, 105758, 100650; CVE-2024-8939"),
    _row(_VLLM, "caches and metric labels keyed by clients' data", "t11",
         "CVE-2025-29770; GHSA-hf3c-wxg2-49q9; PYSEC-2026-4325"),
    _row(_VLLM, "inference fetched URLs", "t4",
         "CVE-2025-6242; CVE-2026-24779, 25960, 34753, 116176"),
    _row(_VLLM, "key compared in variable time, path rebuilt from Host", "t3",
         "CVE-2025-59425; CVE-2026-48746"),
    _row(_VLLM, "addresses in errors, caches shared between users", "t10 t11",
         "CVE-2026-22778, 54236, 25183; CVE-2025-46570, 46722"),
    _row(_VLLM, "an unclaimed name on an extra package index", "t13", "CVE-2026-54232"),
    # other servers and launchers
    _row("SGLang, llama-stack", "ZMQ with pickle, deny-list unpicklers", "t1",
         "CVE-2024-50050; CVE-2026-3059, 3060, 14890, 93088, 93034, 15969, 86793, 7304"),
    _row("BentoML", "a header chose the pickle decoder", "t1",
         "CVE-2024-2912, 9070; CVE-2025-27520, 32375"),
    _row("BentoML", "an upload parser fetched any URL", "t4", "CVE-2025-54381"),
    _row("BentoML", "safe extraction checked the link and not its target", "t5",
         "CVE-2026-27905, 40610, 24123, 44345, 44346, 35044"),
    _row("MLServer", "an environment's archive extracted without a filter", "t5", "CVE-2026-109156"),
    _row("KServe", "extraction without caps", "t5"),
    _row("LitServe", "pickled queues, `!=` on keys, one dead worker stops the server", "t1 t3 t8"),
    _row("Ray", "a control API without authorisation, DNS rebinding", "t2 t14",
         "CVE-2023-48022, 48023, 6019; CVE-2025-62593"),
    _row("LiteLLM", "authorisation decided on the Host header", "t3", "CVE-2026-49468"),
    _row("Infinity, TEI, OVMS", "URLs in inputs without an allow-list, `==` on keys", "t4 t3"),
    # libraries and formats
    _row("transformers", "pickles in checkpoints, exec in converters", "t12",
         "CVE-2024-11392, 11394, 3568; CVE-2025-14921, 14924, 14926, 14930; CVE-2023-6730, 7018"),
    _row("transformers and others", "a config turned remote code on", "t12",
         "CVE-2026-5241, 68770, 44513, 46517"),
    _row("transformers", "regular expressions on clients' text", "t7",
         "CVE-2025-1194, 2099, 3777, 5197, 6638, 6921"),
    _row("accelerate", "a shard index named files outside the model", "t5", "CVE-2026-69112"),
    _row("huggingface_hub", "file names from a server", "t12"),
    _row("safetensors", "bloated headers", "t6 t27"),
    _row("PyTorch", "the safe unpickler was none", "t12 t24", "CVE-2025-32434; CVE-2026-24747"),
    _row("picklescan", "deny-list scanners", "t12", "CVE-2025-1716, 71325, 71348; CVE-2026-46417"),
    # the HTTP stack, codecs, CPython, packages
    _row("Starlette", "a URL rebuilt from Host disagreed with the route", "t3",
         "CVE-2026-48710; PYSEC-2026-248"),
    _row("Starlette", "forms without bounds", "t6",
         "CVE-2026-54283; CVE-2024-47874; CVE-2025-54121; CVE-2023-30798"),
    _row("Starlette", "ranges and static files", "t25", "CVE-2025-62727; CVE-2023-29159"),
    _row("python-multipart", "preambles, headers, file names", "t27",
         "CVE-2024-24762, 53981; CVE-2026-24486, 40347, 42561"),
    _row("h11", "any two bytes after a chunk: smuggling", "t25", "CVE-2025-43859"),
    _row("uvicorn", "forged log lines and headers", "t10", "CVE-2020-7694, 7695"),
    _row("gRPC, HTTP/2", "reset floods, header tables", "t2",
         "CVE-2023-4785, 32731, 44487; CVE-2024-7246"),
    _row("Pillow", "native decoders", "t24", "CVE-2026-112403, 112398, 40192, 55379, 55380"),
    _row("CPython", "overlapping zip entries, tar filters", "t5",
         "CVE-2024-0450; CVE-2025-4517, 4330, 8194"),
    _row("PyPI", "a release that stole credentials on import", "t13", "CVE-2026-44484"),
)  # fmt: skip
"""Every row of the ledger, in its order."""
