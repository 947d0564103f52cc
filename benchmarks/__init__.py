"""Benchmarks: each a program that prints its figures; README.md tells how to run them."""
