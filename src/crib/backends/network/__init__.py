"""Pod networks, behind the port `PodNetworks`: the built-in `bridge`, or `cni` plugins.

Both act inside a pod's namespace only on threads that then end.
"""
