"""Settings of all tests."""

from hypothesis import settings

# Machines that run the tests are slow and shared: an example that takes long is no failure.
settings.register_profile("project", deadline=None)
settings.load_profile("project")
