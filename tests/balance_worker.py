"""Three steps with gradient modulation on one of two processes. Started by `test_balance.py`.

python balance_worker.py RANK FOLDER
"""

import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parent / "models"))

import tiny

from mm_hf import MMFusionForClassification
from mm_hf.balance import GradientModulation


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = tiny.model(MMFusionForClassification, num_labels=3, problem_type="single_label_classification").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    modulation = GradientModulation(model, optimizer, 0.7)
    wrapped = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    torch.manual_seed(rank)  # each its own dropout
    coefficients = []
    for step in range(3):
        rows = tiny.batch(seed=10 * step + rank)
        wrapped(**rows, labels=torch.tensor([0, 1, 2, rank])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        coefficients.append(modulation.coefficients)
    torch.save({"coefficients": coefficients, "weights": model.state_dict()}, f"{folder}/result-{rank}.pt")
    torch.distributed.destroy_process_group()
