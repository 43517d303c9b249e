"""When does what run together: queue, policy, batcher."""
