"""The server of Exec, Attach and PortForward: HTTP heads, then SPDY/3.1 or WebSocket.

`server` takes connections (`link`, with `certificates` over TLS), redeems tokens and chooses the protocol
(`head`). `crib.tunnel` turns frames into streams of bytes; `remotecommand` with its `terminals`, and
`portforward`, say which of them is which. Nothing here knows a container: the verbs of `engine.streams` get
the client's ends and do the rest.
"""
