"""What may vary: dimensions, and the configs that they span."""
