"""What to try, running it, and choosing from the results."""
