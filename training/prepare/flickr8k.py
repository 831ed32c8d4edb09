"""Runs `mm_hf prepare flickr8k`. The code is in mm_hf/prepare/flickr8k.py."""

from mm_hf.prepare.flickr8k import main


if __name__ == "__main__":
    main()
