"""Pod networks, behind the port `PodNetworks`: the built-in bridge, and CNI plugins.

The bridge needs nothing on disk. `bridge` is the port; `bridge_shared` what all pods share, `bridge_link` the
interfaces, `addresses` who holds which, `rules` and `host_ports` the nftables table, `bandwidth` the limits,
`names` and `forwarder` the name server, `bridge_check` whether all of it is as it should be.

`cni` is the other one: `conf_dir` finds networks and `cni_choice` chooses, `plugins` runs one command and
`cni_commands` a network's, `kept_results` keeps what DEL needs, `cni_ready` waits, `cni_gc` and `host_local`
release what nobody holds, `cni_views` tells. Both act inside a pod's namespace only on threads that then end.
"""
