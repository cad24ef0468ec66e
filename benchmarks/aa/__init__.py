"""A/A studies of the product itself: methods that are the baseline under other names."""
