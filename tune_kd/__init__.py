"""Hyperparameter search for knowledge distillation: does it help here, by how much, and how?"""

__version__ = "0.1.0"
