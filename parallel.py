"""Several processes train one network: torchrun --nproc-per-node=N teacher.py

Every process draws the same global batch from the same generator and takes its share; gradients are
averaged before they are clipped. So N processes do what one does, up to the order of sums. Alone,
every function here does nothing. The first process writes; what it leaves on the disk, the others
read.
"""

import contextlib
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist


def rank():
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes():
    """How many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def join(device):
    """Under torchrun: join the others -> this process's own device. device: as picked for one."""
    if "LOCAL_RANK" not in os.environ:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        # the others wait while the first builds the data set or draws
        dist.init_process_group(backend, timeout=timedelta(hours=2))
        if rank():
            sys.stdout = open(os.devnull, "w", encoding="utf-8")
    return device


def wait():
    """Until all processes have come here. On the CPU, so also where one waits for hours."""
    process_mean(torch.zeros(1))


def leave():
    """At the end of a training: the others wait until the first has saved."""
    if processes() > 1:
        wait()
        dist.destroy_process_group()


def share(x):
    """This process's part of a global batch (B, ...) -> (B / N, ...). Raises ValueError if N does
    not divide B."""
    if len(x) % processes():
        raise ValueError(f"{processes()} processes cannot share a batch of {len(x)} equally")
    return x.chunk(processes())[rank()]


def process_mean(x):
    """The mean of a tensor over the processes; alone, x itself. Raises OSError if one has ended."""
    if processes() > 1:
        x = x.clone()
        try:
            dist.all_reduce(x)
        except RuntimeError:
            raise OSError(
                "another process has ended, and so this one does; --resume goes on from the last "
                "checkpoint"
            ) from None
        x /= processes()
    return x


def gather(x):
    """The processes' shares (B / N, ...) -> the global batch (B, ...), without gradient."""
    if processes() == 1:
        return x
    whole = x.new_zeros(processes(), *x.shape)
    whole[rank()] = processes() * x.detach()
    return process_mean(whole).flatten(0, 1)


def average_gradients(network):
    """Every parameter's gradient becomes its mean over the processes, in one message."""
    if processes() == 1:
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = process_mean(torch.cat([g.flatten() for g in gradients]))
    for g, mean in zip(gradients, flat.split([g.numel() for g in gradients])):
        g.copy_(mean.view_as(g))


@contextlib.contextmanager
def first_process_first():
    """The first process runs the block; then the others do, and find what it has built."""
    if rank():
        wait()
    yield
    if not rank():
        wait()
