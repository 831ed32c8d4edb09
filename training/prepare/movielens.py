"""Runs `mm_hf prepare movielens`. The code is in mm_hf/prepare/movielens.py."""

from mm_hf.prepare.movielens import main


if __name__ == "__main__":
    main()
