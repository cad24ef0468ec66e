"""Which hyperparameters matter, and where their good values lie."""
