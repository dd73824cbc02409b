"""Faults of all kinds, and what each costs a sweep: run by scripts/bench/faults."""
