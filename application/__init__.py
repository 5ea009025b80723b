"""What is arranged: use cases over the domain and the ports."""
