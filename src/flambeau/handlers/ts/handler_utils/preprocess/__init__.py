"""Ways to prepare inputs outside of the handler's own Python code."""
