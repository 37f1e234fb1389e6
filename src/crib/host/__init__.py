"""Linux, thinly: system calls, mounts, programs, namespaces, cgroup files, files that containers wrote.

This room knows nothing of pods, containers or images and imports nothing of crib but its own modules.
Errors are `OSError` with the path that was tried in `filename`, or the few small errors of a module. Values
are frozen, functions are short, and what a function may block on is in its docstring.

Begin with `threads` (whatever may block goes there) and `processes` (the one door for programs). By
subject:

* processes: `processes`, `tied_programs`, `package_hints`, `capture`, `adoption` with `orphans`,
  `executions`, `pidfds`, `kept_descriptors`, `strays`, `undying`, `sealed`, `priority` (nice values, OOM
  scores), `notify`; `streams` and `terminals` for what they read and write; `peers` (who is connected to our
  socket).
* namespaces: `namespaces` on `entering`, `user_namespaces`, `sysctls`, `dialing` (sockets in another one).
* cgroups: `cgroups` on `cgroup_trees`, `cgroup_options` (how a tree is mounted), `cgroup_limits`,
  `cgroup_stats` on `cgroup_files`, `cgroup_figures` and `kept_files`, `memory_limits` with `kernel_log` (who
  was killed for want of memory), `freezer`.
* mounts and files: `mounts`, `other_mounts`, `mount_table`, `loop_devices`, `block_devices`,
  `disk_filesystems`, `ext4_files`, `quotas`, `files`, `directories`, `tree_copies` on `clones`, `inotify`,
  `null_device`.
* networks: `netlink`, and on it `links`, `veth`, `addresses`, `routes`, `neighbours`, `traffic`, `taps`,
  `conntrack`, `ip_settings`; `nftables`.
* security: `apparmor`, `selinux`; `privileges` (with capabilities), `confinement`, `landlock` and `seccomp`
  for processes of ours that give up what they do not need.
* `libc`: what the standard library lacks.
"""
