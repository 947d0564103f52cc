"""Requests and replies: arrays to bytes and back, no calls."""
