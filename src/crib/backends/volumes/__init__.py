"""Kinds of volumes, and what they share.

* `kinds`: the table of all kinds. `local` and `tmpfs`: directories, on disk and in memory.
* `block`: files and devices, as file systems or as they are; `disks` does its work at files and mounts.
* `image`: the files of an image.
* `csi`: those of drivers of the Container Storage Interface.
* `measures`: how full volumes are.
* `ground`: what lies below the directories of volumes, whichever kind made it.
* `archives`: export and import. A confined process does the work, whose program is `archive_main`; it makes a
  tar of a tree (`tree_export`) or a tree of a tar (`tree_import`), and is told what by `archive_messages`.
"""
