"""Doors to the builders of encoders and demonstration data, which are in mm_hf/prepare."""
