"""What benchmarks share: images, tables, processes, results, and the S3 server of the tests."""
