"""A checkpoint as a service: rows come in over HTTP, answers go out. `mm_hf serve RUN` starts it.

What needs the extra `serve` is imported where it is used.
"""
