"""Tests against libraries too large for every run.

`tests/conformance/test_importers.py` runs them in an environment that has the libraries, and
fails if one is skipped there.
"""

import os

# Before the first import of Keras, which has no backend of its own.
os.environ.setdefault("KERAS_BACKEND", "torch")
