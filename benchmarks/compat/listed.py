"""The differences that are meant, each with its reason. docs/migrating.md says how to undo them."""

import re

LISTED: tuple[tuple[str, str], ...] = (
    (r': content_type: "" \| "application/json"$', "JSON answers say that they are JSON"),
    (r'^result nan: body: "NaN" \| null$', "NaN is no JSON: it becomes null"),
    (r"^PredictionException 413: (status|body\.code): 507 \| 413$", "a handler's own 413 stays"),
    (r"^GET /wfpredict/nope: body\.(type|message)", "workflows are not served"),
    (r"(OPTIONS|api-description).*: body\.calls", "our description also names our other routes"),
    (r"metrics.*: body: extra flambeau_", "our own histograms and gauges beside TorchServe's"),
    (
        r"metrics.*: body: extra HandlerTime",
        "BaseHandler's HandlerTime is there before TorchServe's",
    ),
    (r"\.handler: \"-\" \| \{", "describe says how the handler was resolved"),
    (
        r"^describe json: body\[0\]\.maxBatchDelay: -10000 \| 100$",
        "unset is the default, not -10000",
    ),
    (r"^register json (broken|empty): (status|body\.)", "a broken JSON body is a 400, not a 500"),
    (r"^register (garbage|modelless|scrambled|ftp): body\.message", "the message names the fault"),
    (r"^register refused: (status|body\.)", "no address is allowed until allowed_urls names it"),
    (r"^register (other handler|failing): body\.message", "the worker's reason is in the message"),
    (r"^list by default: body\.models", "a model that failed to register does not stay listed"),
    (r"^versioned scaled to nothing: body\.message", "without the stray quotation mark"),
    (r"^token .* GET /ping", "probes need no key"),
    (r"^token (none|as) .*(status|code): 400 \| 401$", "no or a wrong key is a 401"),
    (r"^token .*(status|code): 400 \| 403$", "a valid key of another scope is a 403"),
)
"""Regular expressions over `case name: part`, and why that part differs."""


def reason(name: str, parts: list[str]) -> str:
    """Why all parts of a case differ, or "" if one of them has no listed reason."""
    reasons = []
    for part in parts:
        why = next((why for pattern, why in LISTED if re.search(pattern, f"{name}: {part}")), "")
        if not why:
            return ""
        reasons.append(why)
    return "; ".join(dict.fromkeys(reasons))
