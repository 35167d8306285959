"""What runs on workers: fetching, the stages of the pipeline, probing, hashing, writing."""
