"""A checkpoint as an HTTP service: it takes rows and returns answers. `mm_hf serve RUN` starts it.

The packages of the extra `serve` are imported only where they are used.
"""
