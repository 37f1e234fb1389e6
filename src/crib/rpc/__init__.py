"""Calls of gRPC over HTTP/2: the end that is called.

`server` has the methods, the listening socket and the limit of calls; `connection` is one client, with its
frames and windows; `call` is one call, as a handler sees it. `codes` has what a call may end with. `question`
asks a server one thing over a connection of its own.

A client's bytes are handled as the loop reads them. A method that only reads memory is answered right there;
any other gets a task, from what the server was given to start them. What a client does not read stays in its
call, and no handler goes on writing meanwhile. See the gRPC protocol (PROTOCOL-HTTP2.md) and RFC 9113.
"""
