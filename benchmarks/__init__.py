"""Benchmarks, each a module to run from the checkout, as ``python -m benchmarks.decode``.

They import the package and ``benchmarks.support``, never the tests; tests import from here, as the
S3 server that both use.
"""
