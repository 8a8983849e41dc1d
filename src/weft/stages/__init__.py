"""Pieces of a run as a graph: what is missing, and who does it. Knows no recommender."""
