"""The parts of `WAR-INF/MANIFEST.json`."""
