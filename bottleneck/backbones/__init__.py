"""Pretrained networks that turn images into features: choice, weights, precision, computation."""
