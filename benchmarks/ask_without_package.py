"""Asks a checkpoint about one row, like a user who has transformers but not mm_hf.

python -I ask_without_package.py CHECKPOINT ROW.json [TASK]

Prints the answer of the checkpoint's own pipeline as JSON. If the checkpoint has several pipelines, TASK names one.
"""

import json
import os
import sys
from pathlib import Path


os.environ["HF_HUB_OFFLINE"] = "1"
# An editable install puts the repository on the path.
sys.path[:] = [entry for entry in sys.path if not (Path(entry) / "mm_hf").is_dir()]
sys.modules["mm_hf"] = None

from transformers import pipeline  # noqa: E402
from transformers.utils import logging  # noqa: E402


logging.set_verbosity_error()
logging.disable_progress_bar()
checkpoint, row_file, *task = sys.argv[1:]
ask = pipeline(*task, model=checkpoint, trust_remote_code=True)
print(json.dumps(ask(json.loads(Path(row_file).read_text(encoding="utf-8")))))
