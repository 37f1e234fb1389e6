"""crib.v1, from proto/crib/v1/node.proto: the Node service.

`from crib.stubs.node.v1 import node_pb2, node_pb2_grpc`
"""
