"""`crib`, the command line for people at a node.

`app` is the list of commands and their help, `options` and `node_options` have their arguments. A command's
work is in a module that is imported when the command runs, so that `crib --help` stays fast. `manifest` turns
Kubernetes Pods into CRI requests, `run` carries them out. Everything goes through `crib.client`: the command
line works with any CRI runtime, and offers more with crib.
"""
