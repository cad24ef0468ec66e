"""Size, FLOPs, latency, and the time of a training step."""
