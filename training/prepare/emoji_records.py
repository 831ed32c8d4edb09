"""Runs `mm_hf prepare emoji_records`. The code is in mm_hf/prepare/emoji_records.py."""

from mm_hf.prepare.emoji_records import main


if __name__ == "__main__":
    main()
