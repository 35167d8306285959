"""Ray itself: connecting, nodes and what they have room for, calls, the head."""
