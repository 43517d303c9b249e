"""The process boundary: messages with a fixed schema, frames and a channel. Never pickle."""
