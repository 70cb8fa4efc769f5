"""Models on disk: which are known by name, where they are kept, and how they are fetched.

path = resolve("smollm2", offline=False, report=None)      # fetches the file once
"""

from edgellm.store.resolve import resolve

__all__ = ["resolve"]
