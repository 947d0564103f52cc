"""Calls of a running server: predict, health, status."""
