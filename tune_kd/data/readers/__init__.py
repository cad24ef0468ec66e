"""Readers of image files: class folders, Parquet, archives, VOC and Tiny ImageNet."""
