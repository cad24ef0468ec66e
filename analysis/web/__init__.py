"""The page: what is on it, how it is drawn and written, and how it is made from a study."""
