"""The Python API: condense data in memory, and evaluate sets, from a program or a notebook."""
