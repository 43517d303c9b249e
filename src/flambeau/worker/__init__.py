"""The child side of the process boundary: one process that holds one model."""
