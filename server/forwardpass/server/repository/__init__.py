"""Models on disk and their life: found, tried, loaded, swapped in."""
