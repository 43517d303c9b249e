"""Imported by a zygote (`preload`): puts the flaw of the suite's control in force in its forks."""

from tests.trust.running import apply_flaw

apply_flaw()
