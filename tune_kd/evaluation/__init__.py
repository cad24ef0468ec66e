"""One checkpoint on the test split, and what is striking about it."""
