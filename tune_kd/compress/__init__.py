"""Smaller students: channels pruned, weights in int8."""
