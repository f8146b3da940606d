"""What is kept: listings in memory, file blocks on disk."""
