"""The predict job: images or features and a model to a predictions table."""
