"""Pods that are kept up without a kubelet: restarts with back-off, probes, hooks, sidecars, deadlines.

A program of its own that speaks the CRI through `crib.client`, to any runtime. `python -m crib.supervisor` is
the daemon's child that keeps up the pods of `crib run --restart`; `crib run --foreground` uses the same
classes. It touches no pod that it was not given, and so none of a kubelet's.

What is to be done next is decided anew each time (`decide`) from what the runtime lists (`observation`), so
that a kill at any moment changes nothing: only back-offs and probes' counts begin at zero then. Begin with
`decide`, then `keeper`, which carries it out. A Job's pods are kept up by the same class: `job_decide` says
which of them are begun, `job_keeper` does it, and `job_record` has on disk what has succeeded.
"""
