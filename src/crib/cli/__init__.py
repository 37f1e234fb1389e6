"""`crib`, the command line: what a person at a node types.

`app.py` is the list of commands and their help; `options.py` their arguments; each command's work is in a
module of its own that is imported when the command runs, so that `crib --help` stays fast. `manifest/` turns
Kubernetes Pods into CRI requests, `run.py` carries them out. Everything goes through `crib.client`: the
command line works against any CRI runtime, and better against crib.
"""
