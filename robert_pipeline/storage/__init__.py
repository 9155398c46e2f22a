"""Bytes at rest: corpora, the embedding store, model artefacts, warehouse sinks."""
