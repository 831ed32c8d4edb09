"""Answers a question about a picture in a fresh process, from the checkpoint alone.

    mm_hf answer runs/easy_vqa
    mm_hf answer runs/easy_vqa --image picture.png --question "what shape is in the image?"

Without --image the picture is a blue circle, which is drawn.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, cast


def script():
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="mm_hf answer", description=__doc__, formatter_class=raw)
    parser.add_argument("model", help="folder of a checkpoint, or Hub id")
    parser.add_argument("--image", type=Path, help="picture; left out, a drawing of a blue circle")
    parser.add_argument("--question", default="what color is the shape?", help="default: %(default)s")
    parser.add_argument("--top_k", type=int, default=3, help="answers to give; default: %(default)s")
    parser.add_argument(
        "--import",
        nargs="+",
        metavar="FILE",
        dest="import_files",
        help="files of Python that bring what the checkpoint has from outside mm_hf",
    )
    arguments = parser.parse_args()
    from PIL import Image, ImageDraw  # late, so that --help comes at once
    from transformers import pipeline
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        if arguments.image is None:
            picture: Any = Image.new("RGB", (64, 64), (235, 235, 235))
            ImageDraw.Draw(picture).ellipse((20, 18, 46, 44), fill=(0, 0, 255))
        else:
            picture = str(arguments.image)
        task = "visual-question-answering"
        if arguments.import_files:  # they register with mm_hf, and not with the checkpoint's copy of its code
            from ..hub import pipeline as pipeline_of_package
            from ..training.recipe import import_files_for

            import_files_for(arguments.model, arguments.import_files)
            pipe: Any = pipeline_of_package(task, model=arguments.model)
        else:
            # The checkpoint brings its own code, and nothing here imports mm_hf.
            # The library does not list this task any more: the checkpoint brings its pipeline too.
            pipe = cast(Any, pipeline)(task, model=arguments.model, trust_remote_code=True)
        answers = pipe({"image": picture, "question": arguments.question}, top_k=arguments.top_k)
    except (OSError, ValueError) as error:
        sys.exit("error: " + " ".join(str(error).split()))
    except KeyError:
        sys.exit(f"error: {arguments.model} is no checkpoint of mm_hf that answers questions.")
    print(f"{arguments.image or 'a blue circle, drawn now'}: {arguments.question}")
    for answer in answers:
        print(f"  {answer['answer']:<12}{answer['score']:.3f}")


if __name__ == "__main__":
    script()
