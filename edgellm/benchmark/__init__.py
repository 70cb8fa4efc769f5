"""Measuring a model on this machine, and saying how close it comes to what the machine allows."""
