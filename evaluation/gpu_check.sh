#!/usr/bin/env bash
# Does everything run on this GPU, how fast, in how much memory? Meant for at most ten minutes.
#
#     bash evaluation/gpu_check.sh             DEVICE=cpu STEPS=2 BATCHES=2 tries the script itself
#
# Writes only to out/gpu. Prints for each training script and batch: milliseconds a step, peak memory.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEVICE=${DEVICE:-cuda} STEPS=${STEPS:-50} BATCHES=${BATCHES:-8 32 128}
mkdir -p out/gpu
python -c "import torch; print(torch.__version__, torch.cuda.is_available() and
    [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())])"

echo "== every script at toy size, then again in bfloat16 and resumed"
scripts="autoencoder teacher evaluation.train_metrics distill_stage1 distill_stage2"
for script in $scripts; do
    name=out/gpu/${script##*.}
    options="--smoke --device $DEVICE --data out/gpu/toy --out $name --weights $name.pt"
    [ "$script" = autoencoder ] || options+=" --autoencoder out/gpu/autoencoder.pt"
    [ "$script" = distill_stage1 ] && options+=" --teacher out/gpu/teacher.pt"
    [ "$script" = distill_stage2 ] && options+=" --student out/gpu/distill_stage1.pt"
    python -m "$script" $options > "$name.txt" || { cat "$name.txt"; exit 1; }
    python -m "$script" $options --bf16 --out "$name-bf16" --weights "$name-bf16.pt" > "$name.txt"
    echo "$script: $(tail -1 "$name/log.jsonl")"
    python -m "$script" $options --resume > "$name.txt"
done
python -m distill_stage1 --smoke --device "$DEVICE" --data out/gpu/toy --simulate data \
    --autoencoder out/gpu/autoencoder.pt --teacher out/gpu/teacher.pt --out out/gpu/simulate \
    --weights out/gpu/simulate.pt > out/gpu/simulate.txt

count=$(python -c "import torch; print(torch.cuda.device_count())")
if [ "$DEVICE" = cuda ] && [ "$count" -gt 1 ]; then
    echo "== the teacher in $count processes"
    torchrun --nproc-per-node="$count" teacher.py --smoke --batch "$count" --data out/gpu/toy \
        --autoencoder out/gpu/autoencoder.pt --out out/gpu/many --weights out/gpu/many.pt
fi

echo "== milliseconds a step and peak memory, at full size in bfloat16"
for script in $scripts; do
    python - "$script" <<'PYTHON'
import importlib
import os
import sys
import time

import torch

script, device = importlib.import_module(sys.argv[1]), os.environ["DEVICE"]
steps, skipped, never = int(os.environ["STEPS"]), 5, 10**9
every = {k: never for k in ("log_every", "save_every", "sample_every")}
fixed = dict(  # the iterations that most of a training consists of
    autoencoder=dict(),
    teacher=dict(sound_steps=0),
    train_metrics=dict(only="", people=500),
    distill_stage1=dict(warm_fake=0),
    distill_stage2=dict(warm_disc=0, phase_steps=0, curriculum=0, last_steps=1000),
)[sys.argv[1].split(".")[-1]]
hook = "update_ema" if hasattr(script, "update_ema") else "check_finite"  # once a step
real, state = getattr(script, hook), {}


class Enough(Exception):
    pass


def timed(*args, **more):
    real(*args, **more)
    state["calls"] += 1
    if state["calls"] in (skipped, skipped + steps):
        torch.cuda.synchronize() if device == "cuda" else None
        state.setdefault("start", time.perf_counter())
    if state["calls"] == skipped + steps:
        raise Enough


setattr(script, hook, timed)
fields = script.Config.__dataclass_fields__
for batch in map(int, os.environ["BATCHES"].split()):
    state.clear()
    state["calls"] = 0
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    options = {k: v for k, v in every.items() if k in fields} | fixed
    options |= {k: never for k in ("steps", "steps_reader") if k in fields}
    folder = dict(data="out/gpu/data", videos=64, out="out/gpu/time", weights="out/gpu/time.pt")
    try:
        script.train(script.Config(batch=batch, bf16=True, device=device, **folder, **options))
    except torch.OutOfMemoryError:
        print(f"{sys.argv[1]:26s} batch {batch:4d}  does not fit")
        continue
    except Enough:
        pass
    ms = 1000 * (time.perf_counter() - state["start"]) / steps
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    print(f"{sys.argv[1]:26s} batch {batch:4d}  {ms:8.1f} ms a step  {memory:6.2f} GiB", flush=True)
PYTHON
done

echo "== the denoiser: milliseconds for a chunk of 16 frames, 1, 4 and 120 evaluations"
python - <<'PYTHON'
import os
import time

import torch

from distill_stage1 import load_stage1
from distill_stage2 import load_stage2
from latents import Cond
from student import student_sampler
from teacher import load_teacher, teacher_sampler

device = os.environ["DEVICE"]
one, four, many = (
    load_stage2("checkpoints/stage2.pt", device),
    load_stage1("checkpoints/stage1.pt", device),
    load_teacher("checkpoints/teacher.pt", device),
)
samplers = {1: student_sampler(*one), 4: student_sampler(*four)}
samplers[120] = teacher_sampler(many[0], many[1]["recipe"])
for clips in (1, 16) if device == "cuda" else (1,):
    z = torch.randn(clips, 16, 16, 8, 8, device=device)
    sound, mask = torch.randn(clips, 16, 20, 64, device=device), torch.zeros(clips, 16, device=device)
    cond = Cond(z[:, 0], sound, torch.zeros_like(z), mask)
    for evaluations, sampler in samplers.items():
        times = []
        for _ in range(5 if device == "cuda" else 1):
            torch.cuda.synchronize() if device == "cuda" else None
            start = time.perf_counter()
            sampler(cond, lambda: torch.randn(z.shape).to(device))
            torch.cuda.synchronize() if device == "cuda" else None
            times.append(1000 * (time.perf_counter() - start))
        print(f"{clips:3d} clips  {evaluations:4d} evaluations  {min(times):8.1f} ms")
PYTHON
