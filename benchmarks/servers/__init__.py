"""Flambeau against its peers, as servers: the same model, the same texts, the same client."""
