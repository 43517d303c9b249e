"""Archives for the doctor, packed by our own packer."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flambeau.archive.pack import PackRequest, pack
from flambeau.doctor.examine import examine
from flambeau.doctor.findings import Finding, Report

Examine = Callable[..., Report]


@pytest.fixture
def examined(tmp_path: Path) -> Examine:
    """Packs a handler with files beside it, and returns the doctor's report on the archive.

    `files` become extra files, `yaml` and `requirements` what their flags name.
    """

    def run(
        handler: str = "def handle(data, context):\n    return [row for row in data]\n",
        *,
        yaml: str = "",
        requirements: str = "",
        files: dict[str, str | bytes] | None = None,
        **fields: object,
    ) -> Report:
        sources = tmp_path / "sources"
        extra = sources / "extra"
        extra.mkdir(parents=True)
        written: dict[str, object] = {"handler": str(sources / "my_handler.py")}
        (sources / "my_handler.py").write_text(handler)
        for flag, name, text in (
            ("config_file", "model-config.yaml", yaml),
            ("requirements_file", "requirements.txt", requirements),
        ):
            if text:
                (sources / name).write_text(text)
                written[flag] = sources / name
        for name, content in (files or {}).items():
            data = content if isinstance(content, bytes) else content.encode()
            (extra / name).parent.mkdir(exist_ok=True)
            (extra / name).write_bytes(data)
        written |= {"model_name": "m", "version": "1.0", "extra_files": str(extra)}
        written |= {"export_path": tmp_path} | fields
        request = PackRequest(**written)  # type: ignore[arg-type]  # the test's own keywords
        (report,) = examine(pack(request))
        return report

    return run


def found(report: Report) -> dict[str, Finding]:
    """The findings by their code; the last of several of one kind."""
    return {finding.code: finding for finding in report.findings}


def brief(report: Report) -> set[tuple[str, str, str]]:
    """Severity, code and place of all findings."""
    return {(one.severity, one.code, one.where) for one in report.findings}
