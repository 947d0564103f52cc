"""Forwardpass beside its field: the same files, protocol and load, one server after the other."""
