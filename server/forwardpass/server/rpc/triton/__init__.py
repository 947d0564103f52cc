"""Triton's RPCs beyond the Open Inference Protocol."""
