"""Door to `mm_hf train`, for `accelerate launch` and the commands of before. The code is in
mm_hf/training/train.py.
"""

from mm_hf.training.train import script


if __name__ == "__main__":
    script()
