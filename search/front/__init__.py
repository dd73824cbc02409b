"""Choosing from the results: dominance, the front, picks."""
