"""Doors to what runs, which is in mm_hf/training and mm_hf/commands: `python training/train.py` is `mm_hf train`."""
