"""Helpers of `ts.handler_utils`."""
