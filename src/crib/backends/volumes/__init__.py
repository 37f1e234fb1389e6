"""Kinds of volumes, and what they share.

* `kinds`: the table of all kinds. `local` and `tmpfs`: directories, on disk and in memory.
* `block`: files and devices, as file systems or as they are; `disks` does its work at files and mounts.
* `measures`: how full volumes are.
* `ground`: what lies below the directories of volumes, whichever kind made it.
"""
