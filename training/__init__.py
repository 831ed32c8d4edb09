"""Scripts that people run, and read from top to bottom; they import `mm_hf`, never the reverse."""
