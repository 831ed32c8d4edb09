"""The contrastive loss on one of two processes. Started by `test_retrieval.py`.

python pairs_worker.py RANK FOLDER
"""

import sys

import torch

from mm_hf.models.contrastive import Pairs, contrastive_loss


PROCESSES = 2

if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), sys.argv[2]
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    results = []
    for case in torch.load(f"{folder}/cases.pt", weights_only=True):
        start = sum(case["sizes"][:rank])
        queries, items, query_ids, item_ids, valid = (
            values[start : start + case["sizes"][rank]] for values in case["pairs"]
        )
        queries, items, scale = (values.clone().requires_grad_() for values in (queries, items, case["scale"]))
        own = Pairs(queries, items, query_ids, item_ids, valid)
        loss = contrastive_loss(own, scale, case["pairs"][-1].sum() / PROCESSES)
        loss.backward()
        results.append([loss.detach(), queries.grad, items.grad, scale.grad])
    torch.save(results, f"{folder}/result-{rank}.pt")
    torch.distributed.destroy_process_group()
