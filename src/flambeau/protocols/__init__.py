"""One file per client-facing API."""
