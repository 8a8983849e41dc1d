"""Recommenders over item ids: no backbone, no text."""
