"""TorchServe's import surface for users' handlers: our own code under TorchServe's names.

Only a worker process that called `flambeau.handlers.ts.alias.install_ts` sees this package as
`ts`. What it offers is in contract.md sections 9.3, 9.4, 9.6 and 9.7; a module that is not here
fails to import with an error that names it.
"""

from flambeau.handlers.ts.version import __version__

__all__ = ["__version__"]
