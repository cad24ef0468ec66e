"""Which sampler and which rungs a search should have by default: replayed on recorded learning curves."""
