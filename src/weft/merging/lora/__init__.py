"""Merging adapters by their low-rank factors."""
