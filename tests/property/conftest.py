"""Laws are checked on the same cases everywhere, however slow the machine."""

from hypothesis import settings

# A deadline measures the machine, and random cases would make one commit pass and fail.
settings.register_profile("laws", deadline=None, derandomize=True, database=None)
settings.load_profile("laws")
