"""Scripts that call the builders of encoders and demonstration data in mm_hf/prepare."""
