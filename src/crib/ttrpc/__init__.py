"""Calls through ttrpc: asyncio's client and server of it over a connection that is given.

`carriers` has the connection: a socket, once its owner has opened it. `mux` makes several of one, for node
plugins. `client` calls over a carrier and `server` is called; `messages` has the same with messages of
protobuf for bytes. `reading` says when a connection is read no further, and `streams` holds what came and is
not taken yet. `errors` has what a call may end with.

    _, carrier = await loop.create_unix_connection(SocketCarrier, path)
    client = TtrpcClient(carrier)
    answer = await client.call("containerd.task.v3.Task", "State", request, limit=10)

Nothing here opens a socket, starts a task by itself or knows a message. A client has no task: what arrives is
handled as the loop reads it. A server is given what starts its handlers.
"""
