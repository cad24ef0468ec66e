"""Which trial comes next and which one stops: Optuna and ASHA, without Ray."""
