"""The Container Storage Interface; one package a version."""
