"""Runs `mm_hf prepare spoken_numbers`. The code is in mm_hf/prepare/spoken_numbers.py."""

from mm_hf.prepare.spoken_numbers import main


if __name__ == "__main__":
    main()
