"""CRI messages to model values and back: pure functions, one module a noun.

Decoding checks everything that can be checked without looking at the world, and raises `InvalidRequest`
with the path of the CRI field. Every field of every request is read here or listed in `ledger` with the
reason why not; tests/architecture/test_field_ledger.py watches the reading.
"""
