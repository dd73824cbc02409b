"""How good are the searchers and schedulers: recorded trials, a simulator, and real sweeps."""
