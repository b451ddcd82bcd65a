"""How the logs of jobs reach their followers: files in, pieces out. Knows batches, not gRPC."""
