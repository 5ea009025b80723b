"""What is spoken: HTTP, command line, worker; and the composition root."""
