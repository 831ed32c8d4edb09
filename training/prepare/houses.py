"""Runs `mm_hf prepare houses`. The code is in mm_hf/prepare/houses.py."""

from mm_hf.prepare.houses import main


if __name__ == "__main__":
    main()
