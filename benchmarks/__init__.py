"""Scripts that time a claim of the README against the way that it is compared with, both in one run."""
