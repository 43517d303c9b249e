"""`python -m flambeau.worker FD [MODULES [LIFELINE]]`: the zygote, talking over inherited descriptors."""

import socket
import sys

from flambeau.worker.lifeline import hold_lifeline
from flambeau.worker.zygote import Zygote


def main() -> int:
    """Serve forks until the server closes the descriptor."""
    if len(sys.argv) > 3:
        hold_lifeline(int(sys.argv[3]))
    control = socket.socket(fileno=int(sys.argv[1]))
    preload = [name for name in sys.argv[2].split(",") if name] if len(sys.argv) > 2 else []
    return Zygote(control, preload).serve()


if __name__ == "__main__":
    sys.exit(main())
