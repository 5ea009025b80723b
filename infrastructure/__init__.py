"""What is performed: one adapter for each port."""
