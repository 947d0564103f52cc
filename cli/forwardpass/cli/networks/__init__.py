"""Networks and their files: export, inspect, draw, card."""
