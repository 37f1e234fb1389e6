"""What runs inside the VM. Nothing else of this package is there, `crib.wire` aside.

It starts on a CPU that may be emulated, so it imports as little as it can: no protobuf, no asyncio, no
dataclasses.
"""
