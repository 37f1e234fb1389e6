"""What carries the bytes of containers, whatever kind of handler runs them.

* `logs`: files that pods may exchange, on file systems that may not answer. `log_rotation` sets one aside.
  `log_files`: one that the daemon writes itself.
* `attach_sessions`: clients that are attached to a container. `exec_starts`: what a command is run with, and
  who waits for it. `exec_sessions`: its client. `command_names`: by which the commands of an earlier daemon
  are known.
* `dial`: connections into a pod. `refusals`: what a log says of a program that never ran.
"""
