"""ocispec."""
