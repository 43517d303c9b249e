"""Public helpers for tests: ours and those of extension authors."""
