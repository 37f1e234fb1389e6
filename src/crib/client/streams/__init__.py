"""Streams into containers and pods of any CRI runtime: exec, attach, and connections to a pod's ports.

The runtime's socket gives a URL for each stream, where the protocol is SPDY/3.1 or WebSocket. `session` has
exec and attach, `forwarding` the pod's ports. `link` connects, and `crib.tunnel` turns frames into streams of
bytes. Buffers are bounded both ways: a slow reader holds up the writer.
"""

from crib.client.streams.forwarding import ForwardedConnection, forward, forward_url
from crib.client.streams.runtime_stream import Reader, Writer
from crib.client.streams.session import ExecAs, Session, StreamOptions, Transport, attach, exec, exec_detached

__all__ = [
    "ExecAs",
    "ForwardedConnection",
    "Reader",
    "Session",
    "StreamOptions",
    "Transport",
    "Writer",
    "attach",
    "exec",
    "exec_detached",
    "forward",
    "forward_url",
]
