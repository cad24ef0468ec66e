"""A study on disk: its manifest, proposals and rows."""
