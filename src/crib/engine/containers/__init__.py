"""Verbs of the container: create, start, stop, remove, exec, and what happens when it exits."""
