"""Runs `mm_hf answer`, for `accelerate launch` and for commands of older versions. The code is in
mm_hf/commands/answer.py.
"""

from mm_hf.commands.answer import script


if __name__ == "__main__":
    script()
