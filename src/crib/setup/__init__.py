"""`crib setup`: whether a host can run crib, and what to do where it cannot. Reads only; needs no daemon.

`crib check` asks a running daemon, which knows what it tried itself; this looks before there is one. `host`
reads, the other modules judge: `kernel`, `programs`, `network`, `storage` and `kubelet`. `files` has what
`--write` offers.
"""
