"""An adapter and its backbone as one full checkpoint."""
