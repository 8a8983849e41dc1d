"""Full checkpoints as parts of a merge, and the folder that comes out."""
