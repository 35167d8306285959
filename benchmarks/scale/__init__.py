"""Benchmarks of large tables, behind docs/scaling.md."""
