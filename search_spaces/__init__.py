"""One file a search space; `python -m tune_kd.search --space NAME` finds it by name."""
