"""The terms of the loss: labels, logits, features."""
