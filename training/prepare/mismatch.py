"""Runs `mm_hf prepare mismatch`. The code is in mm_hf/prepare/mismatch.py."""

from mm_hf.prepare.mismatch import main


if __name__ == "__main__":
    main()
