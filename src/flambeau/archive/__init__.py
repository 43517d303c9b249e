"""Archives and model stores: manifest, pack, unpack, store."""
