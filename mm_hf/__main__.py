"""`python -m mm_hf` does what the command `mm_hf` does, for machines that do not have the script on the path."""

from .cli import main


if __name__ == "__main__":
    main()
