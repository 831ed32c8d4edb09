"""Runs `mm_hf prepare sort_of_clevr`. The code is in mm_hf/prepare/sort_of_clevr.py."""

from mm_hf.prepare.sort_of_clevr import main


if __name__ == "__main__":
    main()
