"""MergeRec (arXiv 2601.01753): one model for every domain, merged by catalogues alone."""
