"""The command `mm_hf`: one verb for each thing that it can do.

The module of a verb is imported when the verb runs, not to show help, so that `--help` does not wait for torch.
"""

import sys
from importlib import import_module
from pkgutil import resolve_name
from typing import NamedTuple

from . import __version__
from .models.names import did_you_mean
from .training.flags import docstring_of


class Verb(NamedTuple):
    """One verb of the command.

    Args:
        line: its description in the list of verbs.
        module: the module with the function `script()`, which reads `sys.argv` and does the work.
        parser: the function that makes the parser of its flags, in a module that loads neither torch nor transformers.
            None: the verb's own module loads neither, and shows its help itself.
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
    "finetune": Verb("the same with the Trainer of transformers", "mm_hf.training.finetune", TRAINING),
    "evaluate": Verb("measure a checkpoint: metrics, floors, a report", "mm_hf.commands.evaluate", MEASURING),
    "compare": Verb("compare two runs on the same test rows", "mm_hf.commands.compare", COMPARING),
    "predict": Verb("predict the labels of the rows of a file", "mm_hf.commands.predict", PREDICTING),
    "explain": Verb("show how much each modality contributes to the answers", "mm_hf.commands.explain", EXPLAINING),
    "export": Verb("write a checkpoint as a graph, to serve it without torch", "mm_hf.commands.export", EXPORTING),
    "serve": Verb("answer requests over HTTP", "mm_hf.commands.serve", SERVING),
    "demo": Verb("open a web page to try a checkpoint", "mm_hf.commands.demo", SHOWING),
    "fetch": Verb("download the files that a column of URLs names", "mm_hf.commands.fetch", FETCHING),
    "answer": Verb("answer one question about a picture", "mm_hf.commands.answer"),
    "chat": Verb("ask about a picture, question after question", "mm_hf.commands.chat", CHATTING),
    "search": Verb("find images or sounds by text, and text by image or sound", "mm_hf.commands.search", SEARCHING),
    "results": Verb("print the results of a run", "mm_hf.commands.results"),
    "recipes": Verb("list, show and copy the packaged recipes", "mm_hf.commands.recipes"),
    "cache": Verb("show where the features of frozen encoders are cached, and their size", "mm_hf.commands.cache"),
    "prepare": Verb("make the encoders and data that the recipes use", "mm_hf.commands.prepare"),
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

`mm_hf VERB --help` shows the options of a verb, `mm_hf --version` the version."""


def main(words: list[str] | None = None):
    """Runs the command line.

    Raises:
        SystemExit: status 2 with one line if the verb is unknown; else the status of the verb.
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
        if any(word.split("=")[0] == "--import" for word in others):  # an imported file may add flags
            resolve_name(IMPORTING)(parser, others)
        parser.print_help()
        return
    sys.argv = [prog, *others]
    try:
        module = import_module(verb.module)
    except KeyboardInterrupt:  # during the seconds in which torch and transformers load
        print("\nstopped by Ctrl-C.", file=sys.stderr)
        sys.exit(130)
    except ModuleNotFoundError as error:
        package = str(error.name).split(".")[0]
        if package == "mm_hf":
            refuse(f"`{prog}` needs {error.name}, which is missing from this installation: install mm_hf again.")
        refuse(f"`{prog}` needs the package {package}, which is not installed: pip install 'mm_hf[train]'.")
    module.script()


def refuse(message: str):
    """Prints one line and ends the command."""
    print(f"mm_hf: error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
