"""Containers by a shim of containerd's kind (runtime v2): one kind of handler, behind `ShimHandler`.

A shim is a program that stays while its containers are there. It speaks ttrpc on a socket. `bootstrap` starts
one and reads its answer, `shims` knows which pod or container has which, and `tasks` is the task service of
one in our nouns. What carries bytes (fifos, logs, exec, attach) is behind `container_io`, on the files that
`fifos` names.
"""
