"""One fake for each port: small, in memory, with faults and waits on order (see `failpoints`).

Each passes the same suite under tests/contract as the real thing, so that what the engine's tests prove of a
fake holds for the daemon.
"""
