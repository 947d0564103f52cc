"""A server and what it needs: serve, in this process or one of its own, and tokens."""
