"""Runs `mm_hf prepare recurrent`. The code is in mm_hf/prepare/recurrent.py."""

from mm_hf.prepare.recurrent import main


if __name__ == "__main__":
    main()
