"""Answers a question about a picture in a fresh process, from the checkpoint alone.

    mm_hf answer runs/easy_vqa
    mm_hf answer runs/easy_vqa --image picture.png --question "what shape is in the image?"

Without --image the script draws a blue circle and asks about it.
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
    parser.add_argument("--image", type=Path, help="picture; default: a drawing of a blue circle")
    parser.add_argument("--question", default="what color is the shape?", help="default: %(default)s")
    parser.add_argument("--top_k", type=int, default=3, help="number of answers to print; default: %(default)s")
    parser.add_argument(
        "--import",
        nargs="+",
        metavar="FILE",
        dest="import_files",
        help="Python files that define the parts of the checkpoint that are not in mm_hf",
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
        if arguments.import_files:  # these files register with mm_hf, not with the checkpoint's copy of its code
            from ..hub import pipeline as pipeline_of_package
            from ..training.recipe import import_files_for

            import_files_for(arguments.model, arguments.import_files)
            pipe: Any = pipeline_of_package(task, model=arguments.model)
        else:
            # The checkpoint brings its own code, and nothing here imports mm_hf.
            # transformers no longer lists this task, so the checkpoint brings its pipeline too.
            pipe = cast(Any, pipeline)(task, model=arguments.model, trust_remote_code=True)
        answers = pipe({"image": picture, "question": arguments.question}, top_k=arguments.top_k)
    except (OSError, ValueError) as error:
        sys.exit("error: " + " ".join(str(error).split()))
    except KeyError:
        sys.exit(f"error: {arguments.model} is not an mm_hf checkpoint that answers questions about pictures.")
    print(f"{arguments.image or 'a blue circle, drawn now'}: {arguments.question}")
    for answer in answers:
        print(f"  {answer['answer']:<12}{answer['score']:.3f}")


if __name__ == "__main__":
    script()
