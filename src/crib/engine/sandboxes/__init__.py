"""Verbs of the pod sandbox: run, stop, remove. Begin with `run`."""
