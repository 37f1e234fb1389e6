"""Kinds of volumes, and what they share.

* `block`: files and devices, as file systems or as they are; `disks` does its work at files and mounts.
* `measures`: how full volumes are.
"""
