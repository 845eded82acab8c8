"""What holds for all tests."""

from hypothesis import settings

# How long an example takes says how busy the machine is; each test has pytest's own deadline.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
