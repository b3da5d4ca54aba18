"""The table of the labs: what each one asks, where that stands in the code, what it is worth.

A task is one or more places in one file. In the student version (make.py) the places are blank; the
functions test_K_... of tests/test_labN.py mark task K of lab N (grade.py), with all other tasks as
they are in the repository. So no two tasks of a lab may share a function. The points of a lab's
tasks add up to 60; 40 are for what a person reads, the questions and the ablation (lab 8: 10, 90).
"""

from typing import NamedTuple


class Place(NamedTuple):
    """The body of a function, or a stretch of statements inside it."""

    name: str  # a function, or Class.method
    first: str = ""  # how the stretch's first statement begins; "" = the whole body
    last: str = ""  # and its last statement, in the same block; "" = the first is the last


class Task(NamedTuple):
    title: str
    points: int
    file: str  # what a student hands in
    places: list = []  # none: a file that does not exist before


def functions(*names):
    return [Place(name) for name in names]


LABS = {
    1: [
        Task("the schedule", 10, "diffusion.py", functions("alpha_sigma")),
        Task("noise", 8, "diffusion.py", functions("add_noise")),
        Task("v", 8, "diffusion.py", functions("v_target")),
        Task("from v to x0 and ε", 10, "diffusion.py", functions("x0_from_v", "eps_from_v")),
        Task("the DDIM step", 8, "diffusion.py", functions("ddim_step")),
        Task("the sampler's loop", 16, "teacher.py", [Place("ddim_sample", "for t, s in zip")]),
    ],
    2: [
        Task("dropped conditions", 8, "latents.py", functions("drop")),
        Task("guidance", 10, "diffusion.py", functions("guide")),
        Task("context frames", 8, "teacher.py", functions("hold_context")),
        Task("three branches in one batch", 14, "teacher.py", functions("guided_v")),
        Task("the masked loss", 8, "diffusion.py", functions("v_loss")),
        Task(
            "the teacher's loss, in the loop",
            12,
            "teacher.py",
            [Place("train", "keep_ref =", "loss = v_loss(")],
        ),
    ],
    3: [
        Task("the two scores", 10, "distill_stage1.py", functions("real_score", "fake_score")),
        Task("the gradient g", 15, "distill_stage1.py", functions("dmd_gradient")),
        Task("the loss whose gradient is g", 10, "distill_stage1.py", functions("dmd_loss")),
        Task("the fake score's loss", 10, "distill_stage1.py", functions("fake_loss")),
        Task(
            "the student's step, in the loop",
            15,
            "distill_stage1.py",
            [Place("train", "t = T * (0.02", "loss = dmd_loss(")],
        ),
    ],
    4: [
        Task("one evaluation of the student", 10, "student.py", functions("predict")),
        Task("backward simulation", 18, "student.py", functions("rollout")),
        Task("one network's update", 12, "student.py", functions("optimise")),
        Task(
            "samples and two time scales, in the loop",
            20,
            "distill_stage1.py",
            [
                Place("train", "k = 1 +", "with bfloat16(), torch.set_grad_enabled"),
                Place("train", "for _ in range(cfg.fake_updates)"),
            ],
        ),
    ],
    5: [
        Task("the phases", 10, "phases.py", functions("phases")),
        Task("a phase's timesteps", 6, "phases.py", functions("phase_timesteps")),
        Task("the last timestep drawn", 14, "phases.py", functions("draw_last")),
        Task("a step at T before it", 10, "phases.py", functions("warm_timesteps")),
        Task(
            "the student's samples, in the loop",
            20,
            "distill_stage2.py",
            [Place("train", "last = draw_last(", "with bfloat16(), torch.set_grad_enabled")],
        ),
    ],
    6: [
        Task("pairs", 8, "distill_stage2.py", functions("pair_loss", "self_compare_loss")),
        Task(
            "two players, three kinds", 12, "distill_stage2.py", functions("disc_loss", "gen_loss")
        ),
        Task(
            "with the reference",
            8,
            "distill_stage2.py",
            functions("disc_objective", "gen_objective"),
        ),
        Task("the penalty", 10, "distill_stage2.py", functions("penalty")),
        Task(
            "the discriminator's value", 8, "discriminator.py", functions("Discriminator.forward")
        ),
        Task(
            "both players' losses, in the loop",
            14,
            "distill_stage2.py",
            [
                Place("train", "values = real, fake, ref", "loss_d = loss_d + cfg.penalty"),
                Place("train", "with torch.no_grad():", "loss_g = gen_objective("),
            ],
        ),
    ],
    7: [
        Task("Fréchet distance", 14, "evaluation/measures.py", functions("frechet_distance")),
        Task("correlation", 8, "evaluation/measures.py", functions("correlation")),
        Task("lag", 8, "evaluation/measures.py", functions("best_lag")),
        Task("blinks", 12, "evaluation/measures.py", functions("blink_statistics")),
        Task("the sync curve", 10, "evaluation/measures.py", functions("sync_curve")),
        Task("Sync-C, Sync-D, offset", 8, "evaluation/measures.py", functions("sync_scores")),
    ],
    8: [Task("the report's form", 10, "project.md")],
}
