"""Kinds of volumes, and what they share.

* `block`: files and devices, as file systems or as they are; `disks` does its work at files and mounts.
* `measures`: how full volumes are.
* `archives`: export and import. A confined process does the work, whose program is `archive_main`; it makes a
  tar of a tree (`tree_export`) or a tree of a tar (`tree_import`), and is told what by `archive_messages`.
"""
