"""The parts of `MAR-INF/MANIFEST.json`."""
