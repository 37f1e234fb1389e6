"""Pods that are virtual machines: the kind `vm`, behind `VmHandler`.

A machine is made and served by a shim of ours (`crib.vm.shim`), one process for each pod. So what runs
containers is the kind `shim` (`crib.backends.shim`). Begin with `handler`. Here is only what a machine has
beyond any shim:

* `environment` finds what machines are made of (`machine`), and says what their containers run on.
* `sizes` makes memory and CPUs of a pod's resources. `refusals` names what no machine gives.
* `pods`, `containers` and `dial` are the ports where they do more than those of a shim.
"""
