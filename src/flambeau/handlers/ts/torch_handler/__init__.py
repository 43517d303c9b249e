"""Base classes for handlers."""
