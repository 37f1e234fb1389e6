"""Pod networks, behind the port `PodNetworks`: the built-in bridge, and CNI plugins.

`bridge` needs nothing on disk: netlink and nftables, addresses from `addresses`, rules in `host_ports`.
`cni` runs plugins (`plugins`) of the network that `conf_dir` finds and keeps their answers
(`kept_results`). Both act inside a pod's namespace only on threads that then end (`host.netns`).
"""
