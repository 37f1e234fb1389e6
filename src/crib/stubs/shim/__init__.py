"""What containerd and its shims say to each other, from proto/shim. Messages only.

`from crib.stubs.shim import task_pb2`
"""
