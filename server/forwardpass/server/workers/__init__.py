"""Several processes behind one address: a supervisor, a keeper of the models, and workers."""
