"""Runs `mm_hf finetune`, for `accelerate launch` and for commands of older versions. The code is in
mm_hf/training/finetune.py.
"""

from mm_hf.training.finetune import script


if __name__ == "__main__":
    script()
