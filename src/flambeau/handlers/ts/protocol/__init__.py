"""Names of `ts.protocol` that handlers import."""
