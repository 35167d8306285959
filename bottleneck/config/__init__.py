"""What the configurations of the jobs share: checks, values, flags, and how they are read."""
