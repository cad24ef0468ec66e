"""Methods compared: paired differences, intervals and verdicts."""
