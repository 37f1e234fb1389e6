"""Several streams of bytes through one connection, at either of its ends: the server's and the client's.

`inbox` holds what has arrived and is not read yet, and bounds it. `link` is the connection itself. `spdy` and
`websocket` turn its bytes into streams; where the ends differ, a class or the `role` says so.

Nothing here opens a socket, reads an HTTP head or knows a container. Import the module that is needed: the
daemon loads the protocols with its first client only.

A task that reads a connection never waits for the peer to read: what is due is sent if there is room, and
otherwise goes with the next data. So input gets through while output waits, and the two ends never wait for
each other.
"""
