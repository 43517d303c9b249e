"""The parent side of the process boundary: starts, watches and replaces workers."""
