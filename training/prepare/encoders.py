"""Runs `mm_hf prepare encoders`. The code is in mm_hf/prepare/encoders.py."""

from mm_hf.prepare.encoders import main


if __name__ == "__main__":
    main()
