"""What each of two processes of tests/test_sharding.py runs: the same ten steps under DDP and under FSDP2.

Usage: python -m torch.distributed.run --standalone --nproc_per_node 2 tests/sharding_worker.py ENCODERS OUTPUT
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from mm_hf import MMFusionForQuestionAnswering, MMFusionModel
from mm_hf.sharding import save_sharded, shard_model


STEPS = 10


def build(encoders: Path) -> MMFusionForQuestionAnswering:
    """Two frozen levels of MobileNetV2, a MiniLM that trains, a small fusion with its gates open."""
    torch.manual_seed(0)
    model = MMFusionForQuestionAnswering.from_encoders_pretrained(
        vision=str(encoders / "mobilenet-v2"),
        text=str(encoders / "minilm-l6"),
        num_labels=5,
        freeze_encoders=["vision"],
        vision_feature_layer=[4, 11],
        fusion_module_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "initializer_range": 0.2,  # small weights would hide what a wrong gradient does
        },
        problem_type="single_label_classification",
    )
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name, parameter in model.named_parameters():
        if name.endswith("gates"):
            parameter.data.fill_(0.5)  # behind a gate at zero nothing would be compared
    # Half of all parameters, and a group that holds frozen and trainable ones.
    model.get_input_embeddings().requires_grad_(False)
    return model


def batch_of(rank: int, number: int) -> dict[str, torch.Tensor]:
    """A fixed batch of six rows: three images, used once, twice and twice, and a row without; five texts, one used
    twice or, in every other batch, a row without. The second process has no image at all in batch 1."""
    draw = torch.Generator().manual_seed(1000 * rank + number)
    length = 5 + number % 3
    batch = {
        "vision_index": torch.tensor([0, 0, 1, -1, 2, 1]),
        "pixel_values": torch.randn(3, 3, 64, 64, generator=draw),
        "text_index": torch.tensor([0, 1, 2, 3, 4, -(number % 2)]),
        "input_ids": torch.randint(1000, 20000, (5, length), generator=draw),
        "attention_mask": torch.ones(5, length, dtype=torch.long),
        "labels": torch.randint(0, 5, (6,), generator=draw),
    }
    batch["attention_mask"][::2, -2:] = 0
    if rank == 1 and number == 1:
        del batch["pixel_values"]
        batch["vision_index"] = torch.full((6,), -1)
    return batch


def train(wrapped, rank: int, steps: int = STEPS) -> list[float]:
    """The losses of some steps. SGD: Adam would blow rounding up."""
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    losses = []
    wrapped.train()
    for number in range(steps):
        loss = wrapped(**batch_of(rank, number % 4)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    wrapped.eval()
    return losses


@torch.no_grad()
def fused_apart(model, batch) -> dict[str, torch.Tensor]:
    """What the steps of `MMFusionModel` give that may be called apart."""
    inputs = {key: batch.get(key) for key in ("pixel_values", "input_ids", "attention_mask")}
    encoded = model.encode({"vision": batch["vision_index"], "text": batch["text_index"]}, **inputs)
    memory = model.prepare(encoded)
    return {
        "apart": model.fuse(encoded, return_tokens=False).pooled,
        "prepared": model.fuse(encoded, memory=memory, return_tokens=False).pooled,
        "projected": model.project(encoded)["text"].tokens,
    }


@torch.no_grad()
def outputs_of(model, batch) -> dict[str, torch.Tensor]:
    """The logits of `forward`, and what the steps apart give."""
    logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
    return {"logits": logits, **fused_apart(model.base_model, batch)}


def main():
    encoders, output = Path(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    report = {"world_size": dist.get_world_size(), "losses": {}}

    model = build(encoders)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    report["losses"]["ddp"] = train(DistributedDataParallel(model), rank)
    report["moved"] = {name: (p - start[name]).abs().max().item() for name, p in model.named_parameters()}
    # In batch 1 the second process has no image, and in evaluation no encoder runs a dummy of its own accord.
    outputs = {"ddp": outputs_of(model, batch_of(rank, 1))}
    if rank == 0:
        model.save_pretrained(output / "ddp")
    dist.barrier()

    model = shard_model(build(encoders))
    report["sharded"] = {name: isinstance(p, DTensor) for name, p in model.named_parameters()}
    report["numel"] = [
        sum(p.to_local().numel() for p in model.parameters()),
        sum(p.numel() for p in model.parameters()),
    ]
    report["groups"] = [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]
    report["losses"]["fsdp2"] = train(model, rank)
    outputs["fsdp2"] = outputs_of(model, batch_of(rank, 1))
    save_sharded(model, output / "fsdp2")

    # Without a head the steps can come first: the model is itself the root.
    torch.manual_seed(1)
    model = MMFusionModel(model.config).eval()
    outputs["headless"] = fused_apart(model, batch_of(rank, 1))
    outputs["headless_sharded"] = fused_apart(shard_model(model), batch_of(rank, 1))

    low = shard_model(build(encoders), mixed_precision=torch.bfloat16)
    report["losses"]["bfloat16"] = train(low, rank, steps=4)
    report["dtypes"] = sorted({str(p.dtype) for p in low.parameters()})

    torch.save(outputs, output / f"outputs{rank}.pt")
    (output / f"report{rank}.json").write_text(json.dumps(report))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
