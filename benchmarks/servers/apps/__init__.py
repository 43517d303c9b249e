"""What each peer needs to serve the model: written as its own documentation does it.

These run in the peers' environments and import nothing of ours.
"""
