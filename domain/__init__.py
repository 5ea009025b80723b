"""What is decided, without clock, randomness, I/O or logging."""
