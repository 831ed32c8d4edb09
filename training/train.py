"""Runs `mm_hf train`, for `accelerate launch` and for commands of older versions. The code is in
mm_hf/training/train.py.
"""

from mm_hf.training.train import script


if __name__ == "__main__":
    script()
