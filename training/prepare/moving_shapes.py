"""Runs `mm_hf prepare moving_shapes`. The code is in mm_hf/prepare/moving_shapes.py."""

from mm_hf.prepare.moving_shapes import main


if __name__ == "__main__":
    main()
