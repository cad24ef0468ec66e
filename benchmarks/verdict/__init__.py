"""Whether the report's sentences are right: whole studies simulated, judged by the product's own code."""
