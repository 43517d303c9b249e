"""Which models are served: name and version to `ServedModel`, and each name's default version."""

from collections.abc import Iterator

from flambeau.errors import ErrorKind, FlambeauError
from flambeau.serving.served_model import ServedModel
from flambeau.types import ModelKey


class Registry:
    """All registered models. The first version of a name is its default until told otherwise."""

    def __init__(self) -> None:
        self._versions: dict[str, dict[str, ServedModel]] = {}
        self._default: dict[str, str] = {}

    def __iter__(self) -> Iterator[ServedModel]:
        for versions in list(self._versions.values()):
            yield from list(versions.values())

    def names(self) -> list[str]:
        """Every model's name, sorted."""
        return sorted(self._versions)

    def get(self, name: str, version: str = "") -> ServedModel:
        """The model of that name, in its default version unless one is named."""
        versions = self._versions.get(name)
        if versions is None:
            raise FlambeauError(ErrorKind.MODEL_NOT_FOUND, f"Model not found: {name}")
        model = versions.get(version or self._default[name])
        if model is None:
            raise FlambeauError(
                ErrorKind.VERSION_NOT_FOUND,
                f"Model version: {version} does not exist for model: {name}",
            )
        return model

    def all_versions(self, name: str) -> list[ServedModel]:
        """Every version of one name, in the order of registration."""
        self.get(name)
        return list(self._versions[name].values())

    def check_new(self, key: ModelKey) -> None:
        """Raise `FlambeauError` (CONFLICT) when that version exists."""
        if key.version in self._versions.get(key.name, {}):
            raise FlambeauError(
                ErrorKind.CONFLICT,
                f"Model version {key.version} is already registered for model {key.name}",
            )

    def add(self, model: ServedModel) -> None:
        """Add a model. Raises `FlambeauError` (CONFLICT) when that version exists."""
        self.check_new(model.key)
        name, version = model.key.name, model.key.version
        self._versions.setdefault(name, {})[version] = model
        self._default.setdefault(name, version)

    def remove(self, model: ServedModel) -> None:
        """Remove a model. The default version goes last (contract.md section 6.7)."""
        name, version = model.key.name, model.key.version
        versions = self._versions[name]
        if version == self._default[name] and len(versions) > 1:
            raise FlambeauError(
                ErrorKind.INVALID_VERSION,
                f"Cannot remove default version for model {name}",
            )
        del versions[version]
        if not versions:
            del self._versions[name]
            del self._default[name]

    def discard(self, model: ServedModel) -> None:
        """Remove a model that cannot be served, whatever its version; harmless if it is gone."""
        name, version = model.key.name, model.key.version
        versions = self._versions.get(name, {})
        if versions.get(version) is not model:
            return
        del versions[version]
        if not versions:
            del self._versions[name]
            del self._default[name]
        elif self._default[name] == version:
            self._default[name] = next(iter(versions))

    def is_default(self, model: ServedModel) -> bool:
        """Whether requests that name no version go to this one."""
        return self._default.get(model.key.name) == model.key.version

    def set_default(self, name: str, version: str) -> None:
        """Send requests that name no version to `version`."""
        if version not in self._versions.get(name, {version: None}):
            text = f"Model version {version} does not exist for model {name}"
            raise FlambeauError(ErrorKind.VERSION_NOT_FOUND, text)
        self.get(name, version)
        self._default[name] = version
