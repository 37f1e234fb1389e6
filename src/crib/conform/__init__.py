"""`crib conform`: does a CRI runtime do what runtime.v1 and the kubelet ask of it? By RPC and by field.

* `case` is what a case declares, `expect` how it says what it asked, expected and got.
* `trial` is what a case is given: pods and containers, and their removal. `subject` is the runtime.
* `cases` has the cases themselves, a module for each part of the interface.
* `running` runs them, several at a time and each with a limit; `session` is the order of a run.
* `coverage` compares the declarations with the fields of runtime.v1. `reports` and `page` write results.

Everything goes through `crib.client`, so that every runtime is asked in the same way. All that a run makes
carries the label `LABEL` and is removed, even after Ctrl-C.
"""
