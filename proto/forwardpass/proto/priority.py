"""How a caller says that a call may wait for others: our addition to the protocol."""

KEY = "forwardpass-priority"
"""Key of the metadata; any other value than BATCH, and none, means interactive."""
BATCH = "batch"
METADATA = (KEY, BATCH)
