"""WeaveRec (arXiv 2510.26546): hybrid adapters, merged."""
