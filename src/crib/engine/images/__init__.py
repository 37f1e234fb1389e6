"""Verbs of images: pull, import, remove; and the catalogue of those that are here."""
