"""The version of the distribution: hatchling reads it, and the server and exporter state it."""

__version__ = "0.1.0"
