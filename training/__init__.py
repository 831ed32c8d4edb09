"""Scripts that call the code in mm_hf/training and mm_hf/commands: `python training/train.py` is `mm_hf train`."""
