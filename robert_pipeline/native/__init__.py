"""Machine code for what torch has no fast operation for: C++ sources, compiled once a machine, and their bindings.

Nothing here is needed: where there is no compiler, or a processor without the instructions, callers take torch's own
operations.
"""
