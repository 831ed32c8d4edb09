"""Door to `mm_hf evaluate`, for `accelerate launch` and the commands of before. The code is in
mm_hf/commands/evaluate.py.
"""

from mm_hf.commands.evaluate import script


if __name__ == "__main__":
    script()
