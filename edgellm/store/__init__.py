"""Models on disk: which are known by name, where they are kept, and how they are fetched.

from edgellm.store.resolve import resolve
path = resolve("smollm2")                    # fetches the file once
"""
