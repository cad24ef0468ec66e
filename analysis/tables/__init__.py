"""Tables of the report: a function of the study gives a title and a table."""
