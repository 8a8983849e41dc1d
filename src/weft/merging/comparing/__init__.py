"""What models are and how they lie to each other, before they are merged."""
