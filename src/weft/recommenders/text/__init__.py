"""Recommenders that read items' texts, with a pretrained backbone."""
