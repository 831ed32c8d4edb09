"""The command `mm_hf`: one word for each thing that can be done with it.

A verb's module is imported when the verb runs, and not for its help, so that `--help` does not wait for torch.
"""

import sys
from importlib import import_module
from pkgutil import resolve_name
from typing import NamedTuple

from . import __version__
from .models.names import did_you_mean
from .training.flags import docstring_of


class Verb(NamedTuple):
    """What the command can do.

    Args:
        line: of the list of verbs.
        module: whose `script()` does it, with what `sys.argv` holds.
        parser: the function that makes the parser of its flags, in a module that loads neither torch nor transformers.
            None: the verb's own module is such a one, and shows its help itself.
    """

    line: str
    module: str
    parser: str | None = None


IMPORTING = "mm_hf.training.recipe:import_named"
TRAINING = "mm_hf.training.recipe:training_parser"
MEASURING = "mm_hf.training.measuring_arguments:measuring_parser"
SEARCHING = "mm_hf.commands.arguments:search_parser"
CHATTING = "mm_hf.commands.arguments:chat_parser"
COMPARING = "mm_hf.commands.arguments:compare_parser"
PREDICTING = "mm_hf.commands.arguments:predict_parser"
EXPLAINING = "mm_hf.commands.arguments:explain_parser"
EXPORTING = "mm_hf.commands.arguments:export_parser"
SERVING = "mm_hf.commands.serve_arguments:serve_parser"
SHOWING = "mm_hf.commands.arguments:demo_parser"
FETCHING = "mm_hf.commands.arguments:fetch_parser"
VERBS = {
    "train": Verb("train on a recipe or on your data, with Accelerate", "mm_hf.training.train", TRAINING),
    "finetune": Verb("the same, through the Trainer", "mm_hf.training.finetune", TRAINING),
    "evaluate": Verb("measure a checkpoint: metrics, floors, a report", "mm_hf.commands.evaluate", MEASURING),
    "compare": Verb("compare two runs on the same test rows", "mm_hf.commands.compare", COMPARING),
    "predict": Verb("predict the rows of a file", "mm_hf.commands.predict", PREDICTING),
    "explain": Verb("say what answers rest on: which modality", "mm_hf.commands.explain", EXPLAINING),
    "export": Verb("write a checkpoint as graphs, for a service without torch", "mm_hf.commands.export", EXPORTING),
    "serve": Verb("answer requests over HTTP", "mm_hf.commands.serve", SERVING),
    "demo": Verb("a page on which people try a checkpoint", "mm_hf.commands.demo", SHOWING),
    "fetch": Verb("download the files that a column of URLs names", "mm_hf.commands.fetch", FETCHING),
    "answer": Verb("answer one question about a picture", "mm_hf.commands.answer"),
    "chat": Verb("ask about a picture, question after question", "mm_hf.commands.chat", CHATTING),
    "search": Verb("find pictures or sounds by texts, and texts by them", "mm_hf.commands.search", SEARCHING),
    "results": Verb("print the results of a run", "mm_hf.commands.results"),
    "recipes": Verb("list, show and copy the packaged recipes", "mm_hf.commands.recipes"),
    "cache": Verb("where the features of frozen encoders are kept, and how large", "mm_hf.commands.cache"),
    "prepare": Verb("make the encoders and data that the recipes name", "mm_hf.commands.prepare"),
}
HELP = ("-h", "--help")


def overview() -> str:
    """What `mm_hf --help` prints."""
    verbs = "\n".join(f"  {name:<10}{verb.line}" for name, verb in VERBS.items())
    return f"""usage: mm_hf VERB ...

Fuse pretrained encoders of pictures, texts, sounds, tables and time series, and keep the result as one checkpoint.

  mm_hf train houses.csv --label price     train on a file; the run is in runs/houses
  mm_hf predict runs/houses new.csv -o prices.csv
  mm_hf evaluate runs/houses
  mm_hf explain runs/houses new.csv

verbs:
{verbs}

`mm_hf VERB --help` tells more of each, `mm_hf --version` the version."""


def main(words: list[str] | None = None):
    """Does what the command line says.

    Raises:
        SystemExit: with status 2 and one line for a verb that is not there; else as the verb ends.
    """
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in HELP:
        print(overview())
        return
    if words[0] == "--version":
        print(f"mm_hf {__version__}")
        return
    name, *others = words
    if name not in VERBS:
        refuse(f"unknown verb {name!r:.80}.{did_you_mean(name, VERBS)} Verbs are {', '.join(VERBS)}.")
    verb, prog = VERBS[name], f"mm_hf {name}"
    if verb.parser is not None and any(word in HELP for word in others):
        parser = resolve_name(verb.parser)(docstring_of(verb.module), prog)
        if any(word.split("=")[0] == "--import" for word in others):  # it may bring flags
            resolve_name(IMPORTING)(parser, others)
        parser.print_help()
        return
    sys.argv = [prog, *others]
    try:
        module = import_module(verb.module)
    except KeyboardInterrupt:  # within the seconds that torch and transformers take to load
        print("\nstopped by Ctrl-C.", file=sys.stderr)
        sys.exit(130)
    except ModuleNotFoundError as error:
        package = str(error.name).split(".")[0]
        if package == "mm_hf":
            refuse(f"`{prog}` needs {error.name}, which this installation lacks: install mm_hf anew.")
        refuse(f"`{prog}` needs the package {package}, which is not installed: pip install 'mm_hf[train]'.")
    module.script()


def refuse(message: str):
    """Ends the command with one line."""
    print(f"mm_hf: error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
