"""Metrics that a handler reports (contract.md section 7.6)."""
