"""Settings of every folder's tests."""

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("support")

# A property test's time says nothing here: the machine may be busy.
settings.register_profile("forwardpass", deadline=None)
settings.load_profile("forwardpass")
