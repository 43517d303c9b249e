"""What all parity tests share."""

from tests.handlers.native_models import one_thread

__all__ = ["one_thread"]  # a fixture
