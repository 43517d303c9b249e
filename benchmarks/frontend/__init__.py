"""What the server process itself costs per small request: HTTP, queue, batch, frames."""
