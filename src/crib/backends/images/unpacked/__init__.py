"""Layers as directories, for hosts where no EROFS file can be mounted."""
