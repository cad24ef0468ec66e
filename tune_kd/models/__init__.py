"""Networks by name, their features and their checkpoints."""
