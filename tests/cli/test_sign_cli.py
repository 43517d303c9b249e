"""`flambeau sign`, `flambeau verify`, and the servers' flags (promises.md G32)."""
