"""Makes a virtual environment that sees the packages of the environment it is made from.

`python -m ts.utils.setup_model_venv FOLDER` is the command form.
"""

import site
import sys
import sysconfig
import venv
from pathlib import Path

__all__ = ["create_venv", "inherit_site_packages"]

_INHERITED = "inherited-site-packages.pth"


def create_venv(venv_path: str) -> None:
    """Make an environment with pip; what was in the folder is removed."""
    venv.create(venv_path, clear=True, with_pip=True)


def inherit_site_packages(venv_path: str) -> None:
    """Let the environment import what this one can; its own packages come first."""
    target = sysconfig.get_path("purelib", vars={"base": venv_path, "platbase": venv_path})
    folders = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    folders += site.getsitepackages()
    folders += [folder for folder in sys.path if folder.endswith("-packages")]  # inherited ones
    lines = [folder for folder in dict.fromkeys(folders) if Path(folder).is_dir()]
    Path(target, _INHERITED).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m ts.utils.setup_model_venv FOLDER")
    create_venv(sys.argv[1])
    inherit_site_packages(sys.argv[1])
