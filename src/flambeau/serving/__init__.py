"""The protocol-neutral service: inference (data plane) and management (control plane)."""
