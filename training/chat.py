"""Runs `mm_hf chat`, for `accelerate launch` and for commands of older versions. The code is in
mm_hf/commands/chat.py.
"""

from mm_hf.commands.chat import script


if __name__ == "__main__":
    script()
