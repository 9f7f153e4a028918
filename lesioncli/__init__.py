"""Lesion masks and class scores for folders of dermoscopic images."""

__version__ = "0.2.0"
