"""Networks from other libraries and from other producers' files."""
