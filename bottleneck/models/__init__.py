"""Trained classifiers: heads, their files, and the networks of ImageNet."""
