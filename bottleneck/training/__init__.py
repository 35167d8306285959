"""The train job: a features table to a model."""
