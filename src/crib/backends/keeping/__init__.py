"""Pods that are kept up: `units` has their files, `child` the process that looks after them, `changes` what
its reports say of restarts and probes. The port is `kept_pods`.

The process is `crib.supervisor`, a program like `crib`: the daemon knows neither manifests nor probes. It is
there only while there are such pods, and so never on a node of a kubelet's.
"""
