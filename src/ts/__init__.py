"""TorchServe's package `ts` in the user's own process: unit tests of handlers, and launchers.

Handlers' part of it (`ts.context`, `ts.torch_handler`, …) is `flambeau.handlers.ts`, the very same
module objects that a worker sees, so that `isinstance` holds. What only a user's process needs
(`ts.launcher`, `ts.model_server`, `ts.arg_parser`, `ts.llm_launcher`) lies in this folder. Nothing
here imports torch until a module that needs it is imported.
"""

import importlib
import sys

from flambeau.handlers.ts.alias import install_ts

install_ts(tuple(__path__))
sys.modules["ts"] = importlib.import_module("flambeau.handlers.ts")
