"""nri.pkg.api.v1alpha1, from proto/nri/v1alpha1/api.proto. Messages only.

`from crib.stubs.nri.v1alpha1 import api_pb2`
"""
