"""Pictures of networks: layout, lines and texts."""
