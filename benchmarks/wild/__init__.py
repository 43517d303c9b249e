"""Handlers that other people wrote, unmodified, in a real server."""
