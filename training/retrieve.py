"""Runs `mm_hf search`, for `accelerate launch` and for commands of older versions. The code is in
mm_hf/commands/search.py.
"""

from mm_hf.commands.search import script


if __name__ == "__main__":
    script()
