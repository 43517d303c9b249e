"""Measuring a server from outside: the load, what it saw, and how it is shown."""
