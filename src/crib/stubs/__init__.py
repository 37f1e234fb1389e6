"""Python made from proto/ by script/stubs: never edited by hand, never imported by engine or model.

`crib.stubs.runtime.v1` is the Container Runtime Interface, `crib.stubs.node.v1` crib's own service for what
that interface has no call for. Each has messages (`*_pb2`), and clients and servicers (`*_pb2_grpc`).
`crib.stubs.shim` is what containerd's shims speak, `crib.stubs.nri.v1alpha1` is the Node Resource Interface,
`crib.stubs.csi.v1` the Container Storage Interface, `crib.stubs.vm` what a VM's agent is asked. These have
messages only, for their calls are made by name. Of the daemon only `backends.shim`, `backends.nri` and
`backends.volumes.csi` import them.
"""
