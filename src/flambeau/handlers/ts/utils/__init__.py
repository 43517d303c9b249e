"""Helpers of `ts.utils`."""
