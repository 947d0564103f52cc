"""Metrics, log lines and traces of calls."""
