"""The host's half of a VM pod: a shim (runtime v2) whose containers run in a virtual machine of its own.

A shim client runs it as it runs any: `start` in a pod's bundle, which boots the VM already; the sandbox
service (`CreateSandbox` takes the VM, or makes it; `StartSandbox` answers when the guest is ready); the task
service for containers; and `delete` after a shim that has died. What a client must know beside that:

* **Options** are those of `options.VmOptions` (runtimeoptions.v1.Options with TOML), given at `start` or with
  CreateSandbox. The annotations that `options` names are read from the config.json of the pod's *bundle*;
  those of the CRI's pod are not. Its `linux.namespaces` name the pod's network namespace, its `cgroupsPath`
  where shim, qemu and virtiofsd go, its `hostname` and `linux.sysctl` what the guest is told.
* **Stages** of the boot (shim, virtiofsd, qemu, kernel, init, agent, configure) are told by `SandboxStatus`
  with `verbose`: `info["stages"]` is JSON, a list of `{"name", "began", "ended"}` in nanoseconds since the
  epoch. `info` has the pids `shim`, `qemu` and `virtiofsd`, `acceleration`, `cpus`, `memory` in bytes, and
  the end of `console`. If the VM does not start, the error of StartSandbox says how far it came.
* **Pids** that are answered are qemu's. Paths of stdio are fifos or files. A container's root is mounted in
  its bundle before Create. Errors: UNIMPLEMENTED with the field's name for what a VM cannot give.
* **Connections** into the pod (port-forward): the methods Dial, Read, Write and CloseStream of
  `crib.vm.v1.Guest` are served on the shim's own socket, and go to the guest as they are.
* In the pod's network namespace a tap `crib-tapN` stands beside each interface. Its counters are not the
  pod's.
* When qemu, virtiofsd or the guest's agent ends for good, all containers end with 137, then the shim ends.

`main` is the program, `launch` starts the VM as early as it can, in the pod's `cgroup`; `serve` is the shim
as it serves, with `sandbox_service`, `task_service` and `serving`. `pod` is the VM with all that belongs to
it: `machine` (programs) and `watching`, `network`, `share` (what the guest sees by virtiofs), `link` and
`agent` (the connection to the guest), `processes` and `carrying` (its processes and their bytes), `events`,
`stages`. `options` is what the shim is told, `spec` makes a container's config.json one for the guest, and
`clearing` is what `delete` does.
"""
