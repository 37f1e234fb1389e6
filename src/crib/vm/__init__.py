"""Pods that are virtual machines: what makes the guest, what runs inside it, and the shim that drives it.

`build` makes the guest's image from the node's own packages. `guest` runs inside: pid 1 and the agent.
`shim` is a pod's program on the host. A shim client calls it, and it relays the calls to the agent.
"""
