"""Kinds of volumes, and what they share.

* `kinds`: the table of all kinds. `local` and `tmpfs`: directories, on disk and in memory.
* `ground`: what lies below the directories of volumes, whichever kind made it.
"""
