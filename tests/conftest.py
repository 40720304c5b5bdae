"""Settings of all tests: how long a property takes on a busy machine says nothing about it."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
