"""Label long documents in batch: recurrence over BERT. Importing this package starts nothing and loads no framework."""

__version__ = "0.1.0"
