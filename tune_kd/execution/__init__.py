"""Ray: its start, its workers, and the progress of a run."""
