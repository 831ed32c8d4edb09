"""Door to `mm_hf chat`, for `accelerate launch` and the commands of before. The code is in
mm_hf/commands/chat.py.
"""

from mm_hf.commands.chat import script


if __name__ == "__main__":
    script()
