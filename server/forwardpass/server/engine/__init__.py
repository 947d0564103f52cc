"""A loaded model and its runs: arrays in, arrays out; no messages, no disk."""
