"""One run that brings a table up to date, on the driver: plan, loop, commits."""
