"""Benchmark: measures a model on this machine, and how close it comes to the machine's limits."""
