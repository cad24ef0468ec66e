"""Data sets, their splits, and the augmentation of images on a device."""
