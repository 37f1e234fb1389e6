"""One check of the whole node: records against the world, and the world against the records."""
