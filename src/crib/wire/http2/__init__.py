"""HTTP/2 as bytes (RFC 9113), as far as a server of gRPC needs it.

`frames` has the frames and what a faulty one is answered with, `hpack` the headers in them (RFC 7541), and
`huffman` the code of their strings. What answers calls over a connection is `crib.rpc`.
"""
