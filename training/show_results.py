"""Runs `mm_hf results`, for `accelerate launch` and for commands of older versions. The code is in
mm_hf/commands/results.py.
"""

from mm_hf.commands.results import script


if __name__ == "__main__":
    script()
