"""One verb a module: what the command line and the flows call. Typed arguments in, a report out; prints nothing."""
