"""Door to `mm_hf prepare basic_motions`: the code is in mm_hf/prepare/basic_motions.py."""

from mm_hf.prepare.basic_motions import main


if __name__ == "__main__":
    main()
