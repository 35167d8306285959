"""Version of the package, which its metadata, tables and models take from here."""

__version__ = "0.2.0.dev0"
