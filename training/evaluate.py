"""Runs `mm_hf evaluate`, for `accelerate launch` and for commands of older versions. The code is in
mm_hf/commands/evaluate.py.
"""

from mm_hf.commands.evaluate import script


if __name__ == "__main__":
    script()
