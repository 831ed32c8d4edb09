"""Door to `mm_hf answer`, for `accelerate launch` and the commands of before. The code is in
mm_hf/commands/answer.py.
"""

from mm_hf.commands.answer import script


if __name__ == "__main__":
    script()
