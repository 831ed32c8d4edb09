"""What a stranger does with a checkpoint: no package, no network. Run in a process of its own by `test_hub.py`.

    python -I stranger.py TASK CHECKPOINT ROWS RESULT

TASK is `use` (Auto classes, pipelines, and every checkpoint in the folders `fusions`, `tasks`, `search` and `writer`
beside ROWS), `tune` (fine-tune, save beside RESULT) or `answer` (the logits alone).
"""

import json
import os
import socket
import sys
from pathlib import Path


def no_network(*arguments, **keywords):
    raise OSError("the network is off")


for name in ("connect", "connect_ex"):
    setattr(socket.socket, name, no_network)
socket.getaddrinfo = no_network
# An editable install puts the repository on the path: a stranger has neither.
sys.path[:] = [entry for entry in sys.path if not (Path(entry) / "mm_hf").is_dir()]
try:
    import mm_hf
except ImportError:
    sys.modules["mm_hf"] = None  # whatever else happens to the path
else:
    sys.exit(f"mm_hf is importable, from {mm_hf.__file__}")
assert os.environ["HF_HUB_OFFLINE"] == "1"

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import (  # noqa: E402
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoModelForVisualQuestionAnswering,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    pipeline,
)


task, checkpoint, rows_file, result_file = sys.argv[1:]
rows = json.loads(Path(rows_file).read_text())
torch.manual_seed(0)
processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
batch = processor(
    images=[row["image"] and Image.open(row["image"]) for row in rows], text=[row["question"] for row in rows]
)
model = AutoModelForVisualQuestionAnswering.from_pretrained(checkpoint, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
result = {}

if task == "tune":
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
    labels = torch.arange(len(rows)) % model.config.num_labels
    losses = []
    for _ in range(8):
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    result["losses"] = losses
    checkpoint = str(Path(result_file).parent / "tuned")
    model.eval().save_pretrained(checkpoint)
    processor.save_pretrained(checkpoint)

with torch.no_grad():
    result["logits"] = model(**batch).logits
    if task == "use":
        classifier = AutoModelForSequenceClassification.from_pretrained(checkpoint, trust_remote_code=True)
        result["classifier"] = type(classifier).__name__, classifier(**batch).logits
        base = AutoModel.from_pretrained(checkpoint, trust_remote_code=True)
        result["base"] = type(base).__name__, base(**batch).pooler_output
        for key, pipe in {
            "pipeline": pipeline("visual-question-answering", model=checkpoint, trust_remote_code=True),
            "pipeline without task": pipeline(model=checkpoint, trust_remote_code=True),
        }.items():
            result[key] = pipe.task, pipe(rows, top_k=3), pipe(rows[0], top_k=1)
        result["evidence"] = pipe(rows[0], evidence=True, background=rows), pipe(rows[0])
        result["fusions"] = {}
        for folder in sorted((Path(rows_file).parent / "fusions").iterdir()):
            other = AutoModelForVisualQuestionAnswering.from_pretrained(folder, trust_remote_code=True)
            result["fusions"][folder.name] = type(other.model.fusion).__name__, other(**batch).logits
        tasks = Path(rows_file).parent / "tasks"
        other = AutoModel.from_pretrained(tasks, trust_remote_code=True)
        pipe = pipeline(model=tasks, trust_remote_code=True)
        answers = pipe(rows, batch_size=2), [pipe(row) for row in rows]
        result["tasks"] = type(other).__name__, other(**batch).logits, pipe.task, answers
        search = AutoModelForZeroShotImageClassification.from_pretrained(
            Path(rows_file).parent / "search", trust_remote_code=True
        )
        outputs = search(**batch)
        items = {key: values for key, values in batch.items() if not key.endswith("_index")}
        embeds = outputs.text_embeds @ outputs.image_embeds.T
        writer = Path(rows_file).parent / "writer"
        other = AutoModelForImageTextToText.from_pretrained(writer, trust_remote_code=True)
        pipes = {
            name: pipeline(name, model=writer, trust_remote_code=True)
            for name in ("image-to-text", "visual-question-answering", "image-text-to-text")
        }
        image = rows[0]["image"]
        result["writer"] = {
            "class": type(other).__name__,
            "written": other.generate(**batch),
            "image-to-text": pipes["image-to-text"](image),
            "visual-question-answering": pipes["visual-question-answering"](rows, batch_size=3, num_beams=1),
            "image-text-to-text": pipes["image-text-to-text"](images=image, text=rows[0]["question"]),
        }
        result["search"] = type(search).__name__, embeds, search.score_pairs(**items)
torch.save(result, result_file)
