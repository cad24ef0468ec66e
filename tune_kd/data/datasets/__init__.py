"""Where the data sets with a name are found and read."""
