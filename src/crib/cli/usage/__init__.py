"""What pods use: `crib top`, `crib stats` and `crib df`."""
