"""Runs an experiment: `run_experiment(request)`."""
