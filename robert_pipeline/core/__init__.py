"""Computation on values. Models, clocks and seeds come in as arguments; no file is opened and no framework is known."""
