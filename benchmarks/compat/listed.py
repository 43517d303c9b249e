"""The differences that are meant, each with its reason. docs/migrating.md says how to undo them."""

import re

LISTED: tuple[tuple[str, str], ...] = (
    (r": content_type: .*\| \"application/json\"", "JSON answers say that they are JSON (12.2.8)"),
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
