"""mergekit's YAML, read as weft's recipes."""
