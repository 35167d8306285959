"""The extract job: images to a features table."""
