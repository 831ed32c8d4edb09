"""Door to `mm_hf finetune`, for `accelerate launch` and the commands of before. The code is in
mm_hf/training/finetune.py.
"""

from mm_hf.training.finetune import script


if __name__ == "__main__":
    script()
