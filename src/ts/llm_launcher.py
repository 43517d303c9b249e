"""`python -m ts.llm_launcher` started TorchServe's vLLM and TensorRT-LLM handlers: not offered here.

What it does instead is say what to use.
"""

import argparse
import sys


def main(args: argparse.Namespace | None = None) -> None:
    """End the process with status 1 and a message that names what to use instead."""
    if args is None:
        parser = argparse.ArgumentParser(prog="python -m ts.llm_launcher", description=__doc__)
        parser.add_argument("--model_id", default="MODEL_ID", help="the model's id on the hub")
        parser.add_argument("--model_name", default="model", help="the name to serve it under")
        args, _ = parser.parse_known_args()
    sys.exit(
        "ts.llm_launcher is not offered: Flambeau has no vLLM and no TensorRT-LLM engine. Serve a"
        " text generation model with its own engine:\n"
        f"    flambeau serve {args.model_id} --name {args.model_name}\n"
        "or keep vLLM and run its own server: vllm serve"
    )


if __name__ == "__main__":
    main()
