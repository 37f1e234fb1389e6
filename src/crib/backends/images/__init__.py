"""Images: registries, layers as EROFS files, the store and its mounts."""
