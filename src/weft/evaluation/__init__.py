"""What a number means: candidates, ranks, metrics, protocol, comparison."""
