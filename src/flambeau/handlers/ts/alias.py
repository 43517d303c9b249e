"""Makes `flambeau.handlers.ts` importable as `ts`, in this process only."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from typing_extensions import override

_ALIAS = "ts"
_HOME = "flambeau.handlers.ts"


def install_ts(beside: Sequence[str] = ()) -> None:
    """Let `import ts…` in this process mean our implementation, even beside a torchserve package.

    There is one module object for both names, so that `isinstance` and `issubclass` agree. Calling
    it again changes nothing. `beside` are folders with further modules of `ts`, which only a
    user's own process needs.
    """
    if any(isinstance(finder, _TsFinder) for finder in sys.meta_path):
        return
    for name in [name for name in sys.modules if name == _ALIAS or name.startswith(f"{_ALIAS}.")]:
        del sys.modules[name]  # another package's modules, imported before
    sys.meta_path.insert(0, _TsFinder(beside))


class _TsFinder(MetaPathFinder):
    """Finds `ts` and everything below it, and nothing else."""

    def __init__(self, beside: Sequence[str]) -> None:
        self._beside = beside

    @override
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != _ALIAS and not fullname.startswith(f"{_ALIAS}."):
            return None
        home = _HOME + fullname.removeprefix(_ALIAS)
        if importlib.util.find_spec(home) is None:
            if self._beside and (spec := PathFinder.find_spec(fullname, self._beside)):
                return spec
            message = (
                f"No module named {fullname!r}: this version of Flambeau does not provide that "
                "part of TorchServe's interface."
            )
            raise ModuleNotFoundError(message, name=fullname)
        return ModuleSpec(fullname, _TsLoader(home))


class _TsLoader(Loader):
    """Hands out the module that already exists (or is imported now) under its home name."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._spec: ModuleSpec | None = None

    @override
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._home)
        self._spec = module.__spec__
        return module

    @override
    def exec_module(self, module: ModuleType) -> None:
        # The import system has put the alias's spec on the module; relative imports inside it
        # need its own.
        module.__spec__ = self._spec
