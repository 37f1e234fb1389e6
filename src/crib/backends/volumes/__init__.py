"""Kinds of volumes."""
