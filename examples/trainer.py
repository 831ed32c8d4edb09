"""Trains a classifier of pictures with texts, with the Trainer of transformers. Read it from top to bottom.

    python examples/trainer.py --data my.csv --image photo --text title --label kind

Use `mm_hf.trainer.MMTrainer` instead of `Trainer`, with the same arguments, for several tasks, for generated texts,
for augmentation of training rows only, or for checkpoints that are never half written.

For default data and small encoders see train_loop.py, which computes frozen features once. With `--vision_encoder
data/encoders/mobilenet-v2 --text_encoder data/encoders/minilm-l6 --image_size 64` it prints, after 36 seconds of one
busy core and in addition to the Trainer's own log:

    epoch 1: validation accuracy 0.847
    epoch 2: validation accuracy 0.868
    test accuracy 0.874; the most frequent class for every row: 0.197
    keycap # [{'score': 0.9353368878364563, 'label': 'Symbols'}, {'score': 0.02645183354616165, 'label': 'Objects'}]
"""

import argparse

import torch
from transformers import EvalPrediction, Trainer, TrainingArguments

import mm_hf
from mm_hf.data import (
    Columns,
    MultimodalCollator,
    data_root_of,
    labels_of,
    load_splits,
    normalise_labels,
    resolve_path,
)
from mm_hf.evaluation import majority_accuracy
from mm_hf.tasks import classification_metrics


parser = argparse.ArgumentParser()
parser.add_argument("--data", default="data/openmoji")
parser.add_argument("--image", default="image")
parser.add_argument("--text", default="name")
parser.add_argument("--label", default="category")
parser.add_argument("--vision_encoder", default="google/vit-base-patch16-224")
parser.add_argument("--text_encoder", default="google-bert/bert-base-uncased")
parser.add_argument("--image_size", type=int)  # height and width; left out, the encoder's own
parser.add_argument("--output", default="runs/trainer")
args = parser.parse_args()

# You can use any `datasets.Dataset`. Here, parts that the data does not have are split from train, and classes get
# numbers by their names.
columns = Columns(image=args.image, text=args.text, label=args.label)
splits = load_splits(args.data, columns, seed=0)
classes, problem_type = labels_of(splits, args.label, "single_label_classification")
splits = normalise_labels(splits, {args.label: classes})

# The encoders are pretrained; projections, fusion (cross-attention) and head start from random weights.
encoders = {"vision": args.vision_encoder, "text": args.text_encoder}
model = mm_hf.MMFusionForClassification.from_encoders_pretrained(
    **encoders,
    image_size=args.image_size,
    fusion_module_config={"hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4},
    freeze_encoders=["vision"],
    trained_layers={"text": 2},  # only its top two layers train
    label2id={name: number for number, name in enumerate(classes)},
    id2label=dict(enumerate(classes)),
)
processor = mm_hf.MMFusionProcessor.from_encoders_pretrained(**encoders, image_size=args.image_size)
root = data_root_of(args.data)  # paths of pictures are relative to this folder
collator = MultimodalCollator(processor, columns, model.config.label2id, problem_type, root=root)


def measure(predictions: EvalPrediction) -> dict[str, float]:
    """Accuracy and macro-F1 of the logits `(N, C)`, over the rows with a label."""
    logits, labels = torch.from_numpy(predictions.predictions), torch.from_numpy(predictions.label_ids)
    return classification_metrics(logits, labels, problem_type)["metrics"]


trainer = Trainer(
    model,
    TrainingArguments(
        args.output,
        remove_unused_columns=False,  # the collator needs all columns, not only the arguments of `forward`
        num_train_epochs=2,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        logging_strategy="epoch",
        report_to="none",
        seed=0,
    ),
    collator,
    train_dataset=splits["train"],
    eval_dataset=splits["validation"],
    compute_metrics=measure,
    processing_class=processor,  # saved with every checkpoint
)
trainer.train()
for entry in trainer.state.log_history:
    if "eval_accuracy" in entry:
        print(f"epoch {entry['epoch']:.0f}: validation accuracy {entry['eval_accuracy']:.3f}")

# The score, and its floor (a simple baseline): the most frequent class of train for every row.
score = trainer.evaluate(splits["test"])["eval_accuracy"]
floor = majority_accuracy(splits["train"][args.label], splits["test"][args.label])
print(f"test accuracy {score:.3f}; the most frequent class for every row: {floor:.3f}")

# One folder: weights, config, processor, and the code that they need.
trainer.save_model()
row = splits["test"][0]
picture = row[args.image] and (row[args.image]["bytes"] or resolve_path(row[args.image]["path"], root))
ask = mm_hf.pipeline(model=args.output)  # transformers.pipeline(..., trust_remote_code=True) needs no mm_hf
print(row[args.text], ask({"image": picture, "text": row[args.text]}, top_k=2))
