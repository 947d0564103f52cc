"""The `forwardpass` command: thin, with imports as late as they can be."""
