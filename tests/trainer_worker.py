"""What each of two processes of tests/test_trainer.py runs: parts whose sizes do not divide, and some steps.

Usage: python -m torch.distributed.run --standalone --nproc_per_node 2 tests/trainer_worker.py DATA OUTPUT
"""

import json
import sys
from pathlib import Path

import torch


def main():
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    import conftest  # noqa: F401  # makes `tiny_models` known
    from test_trainer import SIZES, build, measure, steps_of_sgd

    data, output = Path(sys.argv[1]), Path(sys.argv[2])
    trainer = build(output / "run", data, {**steps_of_sgd(world_size=2), "save_strategy": "steps", "save_steps": 2})
    saves = []
    processor = trainer.data_collator.processor
    save_processor, processor.save_pretrained = processor.save_pretrained, lambda folder: saves.append(str(folder))
    report = {"world_size": trainer.args.world_size, "parts": {size: measure(trainer, size) for size in SIZES}}
    trainer.train()
    report["losses"] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    report["saves"] = len(saves)
    processor.save_pretrained = save_processor
    torch.save(trainer.model.state_dict(), output / f"weights{trainer.args.process_index}.pt")
    (output / f"report{trainer.args.process_index}.json").write_text(json.dumps(report))
    trainer.end()


if __name__ == "__main__":
    main()
