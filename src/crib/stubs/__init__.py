"""Python made from proto/ by script/stubs: never edited by hand, never imported by engine, model or backends.

`crib.stubs.runtime.v1` is the Container Runtime Interface, `crib.stubs.node.v1` crib's own service for what
that interface has no call for. Each has messages (`*_pb2`), and clients and servicers (`*_pb2_grpc`).
"""
