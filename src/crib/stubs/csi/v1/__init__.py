"""csi.v1, from proto/csi/v1/csi.proto: what crib says to storage drivers. Messages only.

`from crib.stubs.csi.v1 import csi_pb2`
"""
