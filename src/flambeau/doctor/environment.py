"""What is wrong with this environment, whatever the archive."""

import importlib.metadata

from flambeau.doctor.findings import Finding

_CLASHING = ("torchserve", "torch-model-archiver", "torch-workflow-archiver")


def check_environment() -> list[Finding]:
    """TorchServe's own distributions bring commands and packages of the same names as ours."""
    found = [name for name in _CLASHING if _is_installed(name)]
    if not found:
        return []
    return [
        Finding(
            "warning",
            "clashing-packages",
            "",
            f"{', '.join(found)} and Flambeau are installed in one environment, and bring the same"
            " commands and packages: whichever came last wins.",
            f"pip uninstall {' '.join(found)}; then pip install --force-reinstall --no-deps flambeau.",
        )
    ]


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
