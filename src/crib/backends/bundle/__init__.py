"""What a container is made from on this host, with the name of no runtime in it.

* `rootfs`: its root, image layers under a writable one. `volumes`: images and VOLUMEs of images as volumes.
* `host_resources`: paths, devices and profiles that it takes from the host.
* `cdi` and `spec_files`: what the administrator has put there for it: devices, hooks, a base spec.
* `io_classes`: classes of block I/O and RDT that the node has.
* `mount_targets`: where each mount comes to lie, and where none may.
* `id_maps`: files with the ids of a user namespace. `labels`: AppArmor and SELinux.
* `bundles`: its bundle's directory, and the note from which it can be torn down.
"""
