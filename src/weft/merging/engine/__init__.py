"""Streams tensors through a merging method, and knows nothing of any method."""
