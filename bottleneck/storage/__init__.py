"""Bytes anywhere: URIs, files, object stores, fingerprints, many reads at once."""
