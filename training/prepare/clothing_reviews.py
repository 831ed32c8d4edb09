"""Runs `mm_hf prepare clothing_reviews`. The code is in mm_hf/prepare/clothing_reviews.py."""

from mm_hf.prepare.clothing_reviews import main


if __name__ == "__main__":
    main()
