"""When to stop a trial."""
