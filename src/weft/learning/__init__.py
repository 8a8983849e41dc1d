"""Merging weights that are learned, and end as plain numbers of a merge recipe."""
