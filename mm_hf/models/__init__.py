"""The code that travels inside a checkpoint: flat, and importing nothing of mm_hf but its own siblings."""
