"""How bytes arrive and leave. Knows no model."""
