"""Models on disk: known names, folders and downloads.

from edgellm.store.resolve import resolve
path = resolve("smollm2")                    # fetches the file once
"""
