"""Runs `mm_hf prepare caption_steps`. The code is in mm_hf/prepare/caption_steps.py."""

from mm_hf.prepare.caption_steps import main


if __name__ == "__main__":
    main()
