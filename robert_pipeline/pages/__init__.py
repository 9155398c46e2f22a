"""Values in, self-contained HTML pages out: no script, no outside resource, light and dark. Opens nothing."""
