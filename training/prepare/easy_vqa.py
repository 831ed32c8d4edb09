"""Runs `mm_hf prepare easy_vqa`. The code is in mm_hf/prepare/easy_vqa.py."""

from mm_hf.prepare.easy_vqa import main


if __name__ == "__main__":
    main()
