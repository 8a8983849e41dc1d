"""Rows of embeddings by the tokens that they stand for: compared, and aligned where asked."""
