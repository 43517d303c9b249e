"""What logs and descriptions do not tell of an address: passwords and signatures (promises.md G24).

A link to an archive is often a key to it, by its query: `https://bucket/a.mar?X-Amz-Signature=…`.
"""

import re
from urllib.parse import quote, unquote, unquote_plus

MASK = "***"

_USER = re.compile(r"(:/{1,2}|#)[^\s/?#]+@")
_QUERY = re.compile(r"(:/{1,2}[^\s?#]*[?#])\S+")
"""Also of addresses that are wrong by a slash, which are refused, and logged as they came."""

_SECRET = re.compile(
    r"token|secret|passw|signature|credential|authorization|api[-_]?key|access[-_]?key|^sig$|^key$",
    re.IGNORECASE,
)
_SUSPECT = re.compile(r"token|secret|passw|credential|authorization|sig|key|%|:/", re.IGNORECASE)


def mask_addresses(text: str) -> str:
    """A text whose addresses have lost user, password, query and fragment."""
    if ":/" not in text and "@" not in text:
        return text
    return _QUERY.sub(rf"\1{MASK}", _USER.sub(rf"\1{MASK}@", text))


def mask_query(query: str) -> str:
    """A request's query, still encoded, without secrets: by the parameter's name, or in an address."""
    if not _SUSPECT.search(query):
        return query
    return "&".join(map(_mask_parameter, query.split("&")))


def _mask_parameter(text: str) -> str:
    name, equals, value = text.partition("=")
    if equals and _SECRET.search(unquote_plus(name)):
        return f"{name}={MASK}"
    # Twice: some encode what is encoded already. A space would end the address.
    told = re.sub(r"\s", "+", unquote(unquote(value)))
    shown = mask_addresses(told)
    return text if shown == told else f"{name}={quote(shown, safe=':/?#*@+')}"
