"""runtime.v1, from proto/runtime/v1/api.proto: RuntimeService and ImageService.

`from crib.stubs.runtime.v1 import api_pb2, api_pb2_grpc`
"""
