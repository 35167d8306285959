"""The table of features or predictions: its schema, shards, log, lease and snapshots."""
