"""The code that travels inside a checkpoint: one flat folder, which imports nothing of mm_hf except its own files."""
