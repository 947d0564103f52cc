"""Options that are made from the fields of a dataclass, and shared by commands."""
