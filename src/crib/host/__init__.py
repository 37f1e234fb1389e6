"""Linux, thinly: system calls, mounts, programs, namespaces, cgroup files, files that containers wrote.

This room knows nothing of pods, containers or images and imports nothing of crib but its own modules. Errors
are `OSError` with the path that was tried in `filename`, or the few small errors of a module. Values are
frozen, functions are short, and what a function may block on is in its docstring.

Begin with `processes` (the one door for programs) and `namespaces` (threads that change a namespace end).
"""
