"""The server of Exec, Attach and PortForward: HTTP heads, then SPDY/3.1 or WebSocket.

`server` takes connections (`link`), redeems tokens and chooses the protocol. `spdy`, and `websocket` with its
`channels`, turn frames into streams of bytes; `remotecommand` and `portforward` say which of them is which.
Nothing here knows a container: the verbs of `engine.streams` get the client's ends and do the rest.

Whoever reads a client never waits for it to read: what is due is sent if there is room, and otherwise goes
with the next data. So input gets through while output waits, and nobody waits for each other.
"""
