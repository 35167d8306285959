"""What a process prints and how it is interrupted: log, progress, signals."""
