"""Moved to process.py."""

from lesioncli.process import count_cores as count_cores
