"""Runs `mm_hf prepare smart_home`. The code is in mm_hf/prepare/smart_home.py."""

from mm_hf.prepare.smart_home import main


if __name__ == "__main__":
    main()
