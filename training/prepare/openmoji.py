"""Runs `mm_hf prepare openmoji`. The code is in mm_hf/prepare/openmoji.py."""

from mm_hf.prepare.openmoji import main


if __name__ == "__main__":
    main()
