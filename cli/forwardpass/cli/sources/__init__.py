"""Models from where others keep them: registries, hubs, web servers, object stores."""
