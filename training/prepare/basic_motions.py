"""Runs `mm_hf prepare basic_motions`. The code is in mm_hf/prepare/basic_motions.py."""

from mm_hf.prepare.basic_motions import main


if __name__ == "__main__":
    main()
