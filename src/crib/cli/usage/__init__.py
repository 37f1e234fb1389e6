"""What pods use: `crib top` and `crib stats`."""
