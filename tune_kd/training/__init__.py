"""One trial on one device."""
