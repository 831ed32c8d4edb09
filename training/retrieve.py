"""Door to `mm_hf search`, for `accelerate launch` and the commands of before. The code is in
mm_hf/commands/search.py.
"""

from mm_hf.commands.search import script


if __name__ == "__main__":
    script()
