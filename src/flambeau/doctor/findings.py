"""What the doctor reports."""

from typing import Literal

import msgspec

Severity = Literal["error", "warning", "note"]
"""`error`: it will not work as it is. `warning`: it may not, or costs something. `note`: it works,
and differs from TorchServe or from what current libraries want."""

_ORDER = ("error", "warning", "note")


class Finding(msgspec.Struct, frozen=True):
    """One thing to know about an archive.

    `code` is a stable name of the kind of finding, `where` a file of the archive with its line
    ("" for the archive as a whole), `advice` what to do.
    """

    severity: Severity
    code: str
    where: str
    what: str
    advice: str = ""


class Report(msgspec.Struct, frozen=True):
    """Everything about one archive. `served` says which code answers its requests."""

    archive: str
    model: str = ""
    version: str = ""
    handler: str = ""
    served: str = ""
    findings: tuple[Finding, ...] = ()

    def count(self, severity: Severity) -> int:
        """How many findings have this severity."""
        return sum(finding.severity == severity for finding in self.findings)


def in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    """The worst first, and of one severity by file and line; each once."""
    unique = list(dict.fromkeys(findings))
    return tuple(sorted(unique, key=lambda one: (_ORDER.index(one.severity), _place(one.where))))


def _place(where: str) -> tuple[str, int]:
    file, _, line = where.rpartition(":")
    return (file, int(line)) if file and line.isdigit() else (where, 0)
