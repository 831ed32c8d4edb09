"""Runs `mm_hf prepare fsdd`. The code is in mm_hf/prepare/fsdd.py."""

from mm_hf.prepare.fsdd import main


if __name__ == "__main__":
    main()
