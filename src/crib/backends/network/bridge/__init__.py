"""The built-in bridge: it needs nothing on disk.

`network` is the port; `shared` what all pods share, `link` the interfaces, `addresses` who holds which,
`rules`, `host_ports` and `senders` the nftables tables, `bandwidth` the limits, `names` and
`forwarder` the name server, `check` whether all of it is as it should be.
"""
