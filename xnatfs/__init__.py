"""xnatfs: an XNAT archive as a directory tree.

The mount, the command line and the virtual file system behind both. ``docs/architecture.md`` says which module
knows what; ``tests/test_architecture.py`` holds the code to it.
"""

__version__ = "0.1.0"
