"""Moved to process.py."""

from lesioncli.process import keep_freed_memory as keep_freed_memory
