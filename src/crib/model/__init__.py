"""Our nouns: frozen values that every other room speaks in, and nothing else.

This room imports only the standard library and does no I/O. Begin with `sandbox` and `container`
(what the CRI asks for, and what we keep of it), then `lifecycle` (which moves are legal) and `errors`
(the one tree of failures that leaves the daemon). Times are integers in nanoseconds since the epoch
unless a name says otherwise; sizes are bytes.
"""
