#!/usr/bin/env python3
"""One arm of bench_gpu.py: transformers and PEFT on a GPU, from a LoRA checkpoint of lema's, on the same rows in
the same order.

    bench_gpu_peft.py MODEL CHECKPOINT ROWS.jsonl BATCH STEPS [--gradients FILE] [--checkpointing] [--liger | --fsdp]

Weights bf16, adapters f32 under bf16 autocast as the Trainer of transformers has it, SDPA attention, fused AdamW, all
resident. With --fsdp each block's weights, the adapters and their update are FSDP2's, kept in pinned host memory and
copied to the GPU for their block. Writes the first step's gradients (before clipping) where asked to, and prints one JSON
object: losses, ms per step, GiB.
"""
import argparse
import json
import os
import tempfile
import time

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM


def shard(model):
    """FSDP2 in a world of one: what it keeps on the host crosses the bus at each use."""
    for backend in ("GLOO", "NCCL"):  # no name of this machine is looked up
        os.environ.setdefault(f"{backend}_SOCKET_IFNAME", "lo")
    from torch.distributed import init_process_group
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
    init_process_group("cpu:gloo,cuda:nccl", init_method=f"file://{tempfile.mkdtemp()}/store", rank=0, world_size=1)
    how = {"offload_policy": CPUOffloadPolicy(), "mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16)}
    for block in model.get_base_model().model.layers:
        fully_shard(block, **how)
    fully_shard(model, **how)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "checkpoint", "rows"):
        parser.add_argument(name)
    parser.add_argument("batch", type=int)
    parser.add_argument("steps", type=int)
    parser.add_argument("--gradients")
    for flag in ("--checkpointing", "--liger", "--fsdp"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--float32", action="store_true", help="weights and arithmetic in f32, without autocast")
    options = parser.parse_args()
    if options.liger:
        from liger_kernel.transformers import apply_liger_kernel_to_llama
        apply_liger_kernel_to_llama()
    base = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16)
    if not options.fsdp:
        base = base.to("cuda")
    if options.float32:
        base = base.float()
    base.config.use_cache = False
    model = PeftModel.from_pretrained(base, options.checkpoint, is_trainable=True)
    if options.checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    if options.fsdp:
        shard(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-4, weight_decay=0, fused=True)
    with open(options.rows) as lines:
        rows = [json.loads(line)["tokens"] for line in lines]
    losses, times = [], []
    for step in range(options.steps):
        first = step * options.batch % len(rows)
        ids = torch.tensor(rows[first:first + options.batch], device="cuda")
        torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=not (options.float32 or options.fsdp)):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        if step == 0 and options.gradients:
            save_file({name.replace(".default", ""): p.grad.float().cpu() for name, p in trained.items()},
                      options.gradients)
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        times.append(1000 * (time.perf_counter() - start))
    print(json.dumps({"losses": losses, "ms": times, "gib": torch.cuda.max_memory_allocated() / 2**30}))


if __name__ == "__main__":
    main()
