"""`python -m mm_hf`: the command `mm_hf`, where no script of this name is on the path."""

from .cli import main


if __name__ == "__main__":
    main()
