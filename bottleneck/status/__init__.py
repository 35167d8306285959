"""The status job: what a table holds and what its runs did."""
