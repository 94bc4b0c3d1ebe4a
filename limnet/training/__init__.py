"""Samples, steps, losses and the loop that trains each network."""
