"""From a study's rows to tables, plots and one page; imports neither torch nor Ray."""
