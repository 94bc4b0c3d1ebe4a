"""A simulated user, protocols, baselines and runs over many cases."""
