"""What the agent in a VM's guest is asked, from proto/vm. Messages only.

`from crib.stubs.vm import guest_pb2`
"""
