import json
import shutil
from contextlib import nullcontext
from functools import partial
from itertools import groupby
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import SHIPPED, condition, small_unet
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import teacher
import tiny_data
from audio_features import audio_windows
from autoencoder import load_autoencoder
from checkpoint import save_checkpoint
from departures import noise_source
from evaluation import film, metrics, models, speed, truth
from evaluation import table as evaluate
from evaluation.judge import Judge
from evaluation.legend import SHOWN
from evaluation.models import models_in
from latents import Cond
from teacher import ddim_sample
from tiny_data import FIRST_SEED, SPLITS
from unet import UNet

CPU = torch.device("cpu")
WANTED = (
    "model nfe jaw_corr width_corr round_corr lag sync_c sync_d sync_offset fid fvd "
    "head_std_ratio blink_rate_ratio identity "
    "denoise_ms_per_frame total_ms_per_frame rtf"
).split()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A toy set of six test videos, and a folder of checkpoints with a tiny untrained teacher."""
    folder = tmp_path_factory.mktemp("evaluate")
    tiny_data.build(folder / "data", "test", 6)
    (folder / "checkpoints").mkdir()
    for name in ("autoencoder.pt", "metrics.pt"):
        shutil.copy(SHIPPED / name, folder / "checkpoints")
    torch.manual_seed(0)
    save_checkpoint(
        folder / "checkpoints" / "teacher.pt",
        kind="teacher",
        config={"channels": 16},
        model=UNet(16).state_dict(),
    )
    return folder


@pytest.fixture(scope="module")
def judge(place):
    six = truth.truth_of(tiny_data.load(place / "data", "test"), 0, 6, 32, CPU)
    return Judge(six, metrics.load_metrics(SHIPPED / "metrics.pt"), CPU)


@pytest.fixture(scope="module")
def scores(judge):
    """What the judge says of the floors."""
    made = {
        name: source(0)
        for name, _, source in truth.floors(
            judge.truth, load_autoencoder(SHIPPED / "autoencoder.pt"), CPU
        )
    }
    made["wrong"] = np.roll(
        judge.truth.frames, 1, axis=0
    )  # true videos, each with the sound of another
    made["late"] = np.concatenate(
        [judge.truth.frames[:, :1].repeat(2, 1), judge.truth.frames[:, :-2]], 1
    )
    return {name: judge(frames)[0] for name, frames in made.items()}


# ---------------------------------------- the floors score as good and as bad as they are


def test_true_lips_with_new_heads_score_best(scores):
    real = scores["real"]
    assert real["jaw_corr"] > 0.95 and real["width_corr"] > 0.85 and real["round_corr"] > 0.9
    assert real["lag"] == 0 and abs(real["sync_offset"]) <= 1
    assert real["closed_rate"] > 0.9 and real["open_rate"] > 0.9
    assert 0.6 < real["head_std_ratio"] < 1.6 and 0.9 < real["frame_change_ratio"] < 1.1


def test_a_still_portrait_scores_as_badly_as_it_is(scores):
    still, real = scores["still"], scores["real"]
    assert abs(still["jaw_corr"]) < 0.3 and still["sync_c"] < 0.5 * real["sync_c"]
    assert (
        still["blink_rate_ratio"] == still["frame_change_ratio"] == 0
        and still["head_std_ratio"] < 1e-3
    )
    assert scores["shuffled"]["lid_std_ratio"] == pytest.approx(1) and real["lid_std_ratio"] > 0.3
    assert real["head_std_ratio"] == pytest.approx(
        np.mean([real[k] for k in ("head_x_ratio", "head_y_ratio", "roll_ratio")])
    )
    assert (
        max(still[k] for k in ("head_x_ratio", "head_y_ratio", "roll_ratio", "lid_std_ratio"))
        < 1e-3
    )
    assert (
        still["fvd"] > 2 * real["fvd"]
    )  # single frames, and so FID, cannot see that nothing moves
    assert still["identity"] > real["identity"]  # the only thing it is good at


def test_wrong_sound_scores_as_badly_as_it_is(scores):
    wrong, real = scores["wrong"], scores["real"]
    assert (
        abs(wrong["jaw_corr"]) < 0.35
        and wrong["sync_c"] < 0.6 * real["sync_c"]
        and wrong["sync_d"] > real["sync_d"]
    )
    assert (
        wrong["fid"] == pytest.approx(0, abs=1e-3) and wrong["identity"] < real["identity"]
    )  # good pictures, of the wrong people


def test_lips_two_frames_late_are_reported_as_two(scores):
    assert scores["late"]["lag"] == 2 and abs(scores["late"]["sync_offset"] + 2) <= 1


def test_shuffled_frames_keep_fid_and_lose_fvd(scores):
    assert scores["shuffled"]["fid"] == pytest.approx(0, abs=1e-3)
    assert (
        scores["shuffled"]["fvd"] > 3 * scores["real"]["fvd"]
        and scores["shuffled"]["frame_change_ratio"] > 1.5
    )


def test_blur_is_worse_than_the_autoencoder(scores):
    assert (
        scores["blurred"]["fid"] > 2 * scores["autoencoder"]["fid"]
        and scores["blurred"]["contrast_ratio"] < 1
    )
    assert scores["autoencoder"]["jaw_corr"] > 0.95


def test_the_redrawn_truth_has_the_same_people_and_lips_and_another_head(judge):
    again = truth.redrawn(judge.truth, 0)
    assert not np.array_equal(again, judge.truth.frames) and not np.array_equal(
        again, truth.redrawn(judge.truth, 1)
    )
    assert FIRST_SEED["test"] + 777_000_000 > max(FIRST_SEED.values()) + max(SPLITS.values())


def test_only_changes_that_can_be_seen_count_as_moving(judge):
    still = np.full((2, 20, 64, 64, 3), 100, np.uint8)
    still[:, ::2, :32] += 3  # flickers by 3 levels, in half of the picture
    still[:, ::2, 48:] += 4  # and by 4 in a quarter
    assert judge.look(still)[0]["moving"] == pytest.approx(0.25)


def test_ten_seconds_are_each_ones_own_sentence_and_then_the_neighbours(judge):
    longer, n = truth.ten_seconds(judge.truth, 2), judge.truth.frames.shape[1]
    assert (
        longer.windows.shape[:2] == (2, 250 + 16)
        and longer.motion.shape[:2] == (2, 250)
        and longer.frames.shape[:2] == (2, 250)
    )
    for k in range(3):
        assert torch.equal(
            longer.windows[1, k * n : (k + 1) * n], judge.truth.windows[(1 + k) % 6, :n]
        )
        np.testing.assert_array_equal(
            longer.motion[1, k * n : (k + 1) * n], judge.truth.motion[(1 + k) % 6]
        )


def test_faithfulness_is_perfect_for_the_portrait_and_sees_other_people_and_colours(judge):
    portraits = judge.truth.portraits[:3, None].repeat(4, 1)
    assert judge.faithfulness(portraits) == pytest.approx((1, 0), abs=1e-3)
    identity, colour = judge.faithfulness(
        np.clip(portraits.astype(int) - 10, 0, 255).astype(np.uint8)
    )
    assert 9 < colour <= 10
    assert judge.faithfulness(portraits[[1, 2, 0]])[0] < 0.6


def test_diversity_is_the_spread_over_seeds():
    reads = [np.zeros((2, 5, 7)) for _ in range(2)]
    reads[1][..., 3] = 2
    np.testing.assert_allclose(evaluate.diversity(reads), [2**0.5, 0, 0])


def test_every_row_samples_from_its_own_checkpoint(tmp_path):
    """Once, the students' weights took the teacher's place in the teacher's rows."""
    for seed, name in enumerate(("teacher", "stage1", "stage2", "direct1")):
        save_checkpoint(
            tmp_path / f"{name}.pt",
            kind="stage1" if name == "direct1" else name,
            config={"channels": 16, "recipe": "plain", "frames": 16, "context": 4},
            model=small_unet(seed).state_dict(),
        )
    noise = torch.randn(1, 16, 16, 8, 8)
    cond = Cond(
        torch.randn(1, 16, 8, 8),
        torch.randn(1, 16, 20, 64),
        torch.zeros_like(noise),
        torch.zeros(1, 16),
    )
    made = {
        name: sampler(cond, lambda: noise)
        for name, nfe, sampler in models_in(tmp_path, CPU)
        if nfe == 1
    }
    for seed, name in enumerate(("ddim1", "stage1_1step", "stage2", "direct1")):
        torch.testing.assert_close(
            made[name], ddim_sample(small_unet(seed), cond, noise, 1, 1, 1), rtol=0, atol=1e-4
        )
        assert all(
            (made[name] - other).abs().mean() > 0.1 for key, other in made.items() if key != name
        )


def test_the_plain_rows_have_plain_noise_and_weights_of_their_own(tmp_path, monkeypatch):
    """The plain teacher is the same network; plain students lie in a folder of their own."""
    (tmp_path / "plain").mkdir()
    for place, seed, recipe in (tmp_path, 1, "toy"), (tmp_path / "plain", 2, "plain"):
        save_checkpoint(
            place / "stage2.pt",
            kind="stage2",
            config={"channels": 16, "recipe": recipe},
            model=small_unet(seed).state_dict(),
        )
    save_checkpoint(
        tmp_path / "teacher.pt",
        kind="teacher",
        config={"channels": 16, "recipe": "toy"},
        model=small_unet().state_dict(),
    )
    noise = torch.randn(1, 16, 16, 8, 8)
    cond = Cond(
        torch.randn(1, 16, 8, 8),
        torch.randn(1, 16, 20, 64),
        torch.zeros_like(noise),
        torch.zeros(1, 16),
    )
    rows = {name: sampler for name, _, sampler in models_in(tmp_path, CPU)}
    torch.testing.assert_close(
        rows["plain_stage2"](cond, lambda: noise),
        ddim_sample(small_unet(2), cond, noise, 1, 1, 1),
        rtol=1e-4,
        atol=1e-4,
    )
    seen = []
    monkeypatch.setattr(
        teacher, "ddim_sample", lambda model, cond, eps, *scales: seen.append((eps, *scales))
    )
    for name in "teacher", "plain_teacher":
        rows[name](cond, lambda: noise)
    assert_close = torch.testing.assert_close
    assert_close(seen[0][0], noise_source("toy", "teacher", lambda: noise)())
    assert seen[1][0] is noise and seen[0][1:] == seen[1][1:] == (
        40,
        teacher.S_REF,
        teacher.S_AUDIO,
    )


def test_models_are_timed_by_turns_and_neither_first_runs_nor_slow_ones_count(monkeypatch):
    """A clock on which the slow model takes 300 ms, the sound 20, once 10 and once 520, and all
    else 100; the first run of a turn 100 more; and everything twice as long in the second of three
    rounds and half as long in the third."""
    now, ran = [0.0], []

    def spend(name, seconds):
        run = 0 if not ran or ran[-1][0] != name else ran[-1][1] + 1
        ran.append((name, run))
        turn = sum(key == ("slow, first", 0) for key in ran)  # each round begins with it
        late = [0.1, -0.01, 0, 0, 0.5][run] if name == "features" else 0.1 * (run == 0)
        now[0] += (seconds + late) * (1, 2, 0.5)[turn - 1]

    def model(name, seconds):
        return lambda cond, noise: spend(
            f"{name}, {'later' if cond.mask.any() else 'first'}", seconds
        )

    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(speed, "log_mel", lambda x: spend("features", 0.02) or x)
    monkeypatch.setattr(speed, "audio_windows", lambda x: x)
    coder = SimpleNamespace(decode=lambda z: spend("decode", 0.1) or torch.zeros(16, 3, 64, 64))
    samplers = {"slow": model("slow", 0.3), "quick": model("quick", 0.1)}
    windows, ref = torch.zeros(1, 32, 20, 64), torch.zeros(1, 16, 8, 8)
    ms = speed.speeds(samplers, windows, ref, coder, CPU, rounds=3)
    parts = [f"{name}, {part}" for name in samplers for part in ("first", "later")]
    assert [key for key, _ in groupby(name for name, _ in ran)] == 3 * [
        *parts,
        "decode",
        "features",
    ]
    slow, quick = ms["slow"], ms["quick"]
    # one run fills its turn, so that one counts
    assert slow["denoise_ms_per_frame"] == pytest.approx(400 / 12)
    assert quick["denoise_ms_per_frame"] == pytest.approx(100 / 12)
    assert quick["decode_ms_per_frame"] == pytest.approx(100 / 16)
    assert quick["features_ms_per_frame"] == pytest.approx(20 / 16)
    assert quick["first_chunk_ms"] == pytest.approx(100 + 100 + 20)
    total = 100 / 12 + 120 / 16
    assert quick["total_ms_per_frame"] == pytest.approx(total)
    assert quick["rtf"] == pytest.approx(40 / total)


def test_what_is_timed_is_a_chunk_of_every_kind_of_work(monkeypatch):
    """Sixteen frames; of later chunks the first four are given; each model its own; a first chunk
    has nothing given, and takes its own time."""
    jobs, seen = {}, []
    times = {("a", "first"): 7, ("a", "later"): 12, ("b", "first"): 5, ("b", "later"): 24}
    times |= dict(decode=160, features=32)
    monkeypatch.setattr(speed, "medians", lambda found, *how: jobs.update(found) or times)
    heard = lambda mel: seen.append(("windows", mel.shape)) or audio_windows(mel)
    monkeypatch.setattr(speed, "audio_windows", heard)
    show = lambda z: seen.append(("decode", z.shape)) or torch.zeros(16, 3, 64, 64)
    samplers = {
        name: lambda cond, noise, name=name: seen.append((name, cond, noise())) for name in "ab"
    }
    windows, ref = torch.randn(2, 40, 20, 64), torch.randn(2, 16, 8, 8)
    ms = speed.speeds(samplers, windows, ref, SimpleNamespace(decode=show), CPU)
    for name in "ab":
        for part, given in ("first", 0), ("later", 4):
            jobs[name, part]()
            who, cond, noise = seen.pop()
            assert who == name and noise.shape == (1, 16, 16, 8, 8)
            assert torch.equal(cond.ref, ref[:1]) and torch.equal(cond.audio, windows[:1, :16])
            assert cond.mask.tolist() == [given * [1] + (16 - given) * [0]]
            assert cond.context[:, :given].all() and not cond.context[:, given:].any()
    jobs["decode"](), jobs["features"]()
    assert seen == [("decode", (16, 16, 8, 8)), ("windows", (16 * 4, 64))]
    assert ms["a"] == pytest.approx(
        dict(
            denoise_ms_per_frame=1,
            decode_ms_per_frame=10,
            features_ms_per_frame=2,
            total_ms_per_frame=13,
            first_chunk_ms=7 + 160 + 32,
            rtf=40 / 13,
        )
    )
    assert ms["b"]["denoise_ms_per_frame"] == 2 and ms["b"]["first_chunk_ms"] == 5 + 160 + 32


def test_the_floor_counts_the_networks_operations_and_measures_in_turns(monkeypatch):
    monkeypatch.setattr(speed, "medians", partial(speed.medians, turn=20))
    model, cond = UNet(16), condition(1)
    operations, ms, rates = speed.floor(model, cond, CPU, rounds=1)
    grown, _, _ = speed.floor(UNet(32), cond, CPU, rounds=1)
    assert 2 < grown / operations < 4  # quadratic in the width but for attention and the ends
    assert rates["network"] == pytest.approx(1000 * operations / ms)
    spent = speed.shares(model, cond, CPU)
    assert sum(share for _, share in spent) <= 1 and spent == sorted(spent, key=lambda s: -s[1])


def test_every_rate_is_of_the_operations_that_its_job_makes(monkeypatch):
    """Counted as the network's are; of jobs that take 2, 3 and 5 ms."""
    ms, counted = dict(network=2.0, product=3.0, convolution=5.0), {}

    def medians(jobs, device, rounds):
        for name, job in jobs.items():
            with FlopCounterMode(display=False) as counter:
                made = job()
            counted[name] = counter.get_total_flops(), made.numel()
        return ms

    monkeypatch.setattr(speed, "medians", medians)
    operations, network_ms, rates = speed.floor(UNet(16), condition(1), CPU)
    assert (operations, network_ms) == (counted["network"][0], 2)
    assert rates == pytest.approx({name: 1000 * counted[name][0] / ms[name] for name in ms})
    # both of 3 x 3 pixels of 16 channels each, to 16 for every pixel of every frame
    pixels = 16 * 8 * 8
    assert counted["product"] == counted["convolution"] == (2 * pixels * 9 * 16 * 16, pixels * 16)


def test_shares_are_of_all_the_time_and_a_part_is_not_counted_in_its_whole(monkeypatch):
    """An operation's own time, without that of those which it calls, or of a GPU's kernels."""

    def event(key, own, total, place="CPU"):
        kind = SimpleNamespace(name=place)
        return SimpleNamespace(
            key=key, self_cpu_time_total=own, cpu_time_total=total, device_type=kind
        )

    events = [event("whole", 1, 10), event("most", 6, 6), event("some", 3, 3)]
    events.append(event("kernel", 5, 5, "CUDA"))
    profile = SimpleNamespace(key_averages=lambda: events)
    monkeypatch.setattr(torch.profiler, "profile", lambda: nullcontext(profile))
    nothing = lambda *inputs: None
    found = speed.shares(nothing, condition(1), CPU, count=2)
    assert found == [("most", 0.6), ("some", 0.3)]


# ---------------------------------------------------------------- the command


def test_json_and_markdown_hold_every_row_and_number(place, capsys, monkeypatch):
    monkeypatch.setattr(speed, "medians", partial(speed.medians, turn=20))
    monkeypatch.setattr(evaluate, "speeds", lambda *args: speed.speeds(*args[:5], rounds=1))
    monkeypatch.setattr(truth, "LONG", 50)
    files = {k: place / f"table.{k}" for k in ("json", "md")}
    evaluate.main(
        [
            "--data",
            str(place / "data"),
            "--checkpoints",
            str(place / "checkpoints"),
            "--clips",
            "3",
            "--frames",
            "28",
            "--seeds",
            "2",
            "--long",
            "1",
            "--models",
            "still,ddim1,ddim2_guided",
            "--device",
            "cpu",
            "--json",
            str(files["json"]),
            "--markdown",
            str(files["md"]),
        ]
    )
    result = json.loads(files["json"].read_text())
    rows = {r["model"]: r for r in result["rows"]}
    assert list(rows) == ["real", "still", "ddim2_guided", "ddim1"]
    for row in rows.values():
        assert set(WANTED) | set(evaluate.METRICS) <= set(row)
    assert rows["ddim1"]["nfe"] == 1 and rows["ddim2_guided"]["nfe"] == 6
    assert (
        all(f"{k}_std" in rows["ddim1"] for k in WANTED[2:14])
        and rows["ddim1"]["fid_std"] is not None
    )
    assert rows["ddim1"]["rtf"] == pytest.approx(40 / rows["ddim1"]["total_ms_per_frame"])
    assert rows["real"]["diversity"] == pytest.approx(1) and rows["still"]["rtf"] is None
    assert {
        "seed",
        "clips",
        "machine",
        "jaw_corr_true",
        "fid_other_people",
        "identity_others",
    } <= set(result["setting"])
    assert (
        "| ddim1 |" in files["md"].read_text("utf-8")
        and "Fréchet" in files["md"].read_text("utf-8")
        and "ddim1" in capsys.readouterr().out
    )


def test_every_seed_differs_a_wrong_sound_is_anothers_and_twice_as_fast_reads_two(
    place, monkeypatch
):
    heard = {}

    def film(sampler, truth, ref, autoencoder, seed, bf16):
        heard.setdefault(sampler, []).append((seed, truth.windows))
        return np.random.default_rng(seed).integers(0, 256, truth.frames.shape, np.uint8)

    speeds = {
        name: {"denoise_ms_per_frame": ms} for name, ms in (("teacher", 20.0), ("ddim1", 10.0))
    }
    monkeypatch.setattr(evaluate, "generate_videos", film)
    monkeypatch.setattr(evaluate, "speeds", lambda *args: speeds)
    line = "--clips 2 --frames 20 --seeds 2 --seed 5 --long 0 --models teacher,wrong_audio,ddim1"
    paths = ["--data", str(place / "data"), "--checkpoints", str(place / "checkpoints")]
    result = evaluate.evaluate(evaluate.arguments([*line.split(), *paths]))
    rows = {row["model"]: row for row in result["rows"]}
    assert [rows[k]["speedup"] for k in ("teacher", "ddim1", "wrong_audio")] == [1, 2, None]
    for runs in heard.values():
        assert [seed for seed, _ in runs] == [5, 6]
    own, again, wrong = (windows for ((_, windows), _) in heard.values())
    assert torch.equal(own, again) and torch.equal(wrong, own.flip(0))  # of two videos
    assert rows["ddim1"]["fid_std"] > 0


def test_noise_is_the_seeds_and_differs_between_videos(monkeypatch):
    monkeypatch.setattr(models, "AT_ONCE", 1)
    coder = SimpleNamespace(decode=lambda z: z[:, :3])
    truth = SimpleNamespace(frames=np.zeros((2, 32)), windows=torch.zeros(2, 48, 20, 64))
    ref = torch.zeros(2, 16, 8, 8)
    make = lambda seed: models.generate_videos(lambda c, n: n(), truth, ref, coder, seed)
    one, again, other = make(0), make(0), make(1)
    assert (one == again).all() and one.shape[:2] == (2, 32)
    for a, b in ((one[0], other[0]), (one[1], other[1]), (one[0], one[1]), (other[0], one[1])):
        assert abs(a.astype(int) - b).mean() > 30


def test_every_frame_of_a_video_is_made_from_its_own_sound(monkeypatch):
    monkeypatch.setattr(models, "AT_ONCE", 1)
    number = torch.arange(2)[:, None] * 100 + torch.arange(48.0)  # of video and frame
    windows = (number / 127.5 - 1)[..., None, None].expand(-1, -1, 20, 64)
    truth = SimpleNamespace(frames=np.zeros((2, 32)), windows=windows)
    say = lambda cond, noise: cond.audio.mean((2, 3))[..., None, None, None].expand_as(noise())
    coder = SimpleNamespace(decode=lambda z: z[:, :3])
    made = models.generate_videos(say, truth, torch.zeros(2, 16, 8, 8), coder, 0)
    np.testing.assert_array_equal(made[:, :, 0, 0, 0], number[:, :32].numpy())


def test_a_row_is_the_seeds_mean_and_spread_and_json_gets_what_it_can_hold():
    row = evaluate.summary("one", 4, [{"fid": f, "lag": np.nan} for f in (1.0, 3.0, 8.0)])
    assert (row["fid"], row["fid_std"], row["nfe"], row["seeds"]) == (4, 13**0.5, 4, 3)
    assert evaluate.summary("one", 4, [{"fid": 1.0}])["fid_std"] is None
    mixed = {"a": [np.float64("inf"), np.nan, np.int64(3)], "b": "x"}
    assert evaluate.plain(mixed) == {"a": [None, None, 3], "b": "x"}


def test_a_single_clip_of_16_frames_is_refused_with_advice_that_helps(place, capsys):
    tiny_data.build(place / "one", "test", 1)
    line = ["--data", str(place / "one"), "--checkpoints", str(place / "checkpoints")]
    for flags, advice in ([["--quick"], "leave --quick out"], [["--frames", "16"], "more --clips"]):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            evaluate.main([*line, *flags])
        said = capsys.readouterr().err
        assert advice in said and said.count("\n") == 1


def test_own_clips_are_judged_without_ground_truth(place, judge, monkeypatch):
    videos = tiny_data.load(place / "data", "test")
    monkeypatch.setattr(
        tiny_data,
        "load",
        lambda *_: videos._replace(motion=np.zeros((0, 11), np.float32), phones=[]),
    )
    monkeypatch.setattr(evaluate, "speeds", lambda *args: {})
    monkeypatch.setattr(truth, "LONG", 50)
    args = evaluate.arguments(
        [
            "--checkpoints",
            str(place / "checkpoints"),
            "--clips",
            "3",
            "--frames",
            "28",
            "--seeds",
            "1",
            "--long",
            "1",
            "--models",
            "ddim1",
        ]
    )
    rows = evaluate.evaluate(args)["rows"]
    assert [r["model"] for r in rows] == ["real", "ddim1"]
    for row in rows:
        assert all(
            row[k] is not None
            for k in ("sync_c", "sync_d", "fid", "fvd", "identity", "frame_change_ratio")
        )
        assert all(
            row[k] is None
            for k in ("jaw_corr", "lag", "head_std_ratio", "blink_rate_ratio", "diversity")
        )


def test_the_legend_explains_every_number_of_the_table(capsys):
    evaluate.main(["--legend"])
    printed = capsys.readouterr().out
    assert all(f"`{k}`" in printed for k in [*WANTED[1:], *SHOWN])


def test_bad_arguments_end_with_one_line(place, capsys):
    common = ["--data", str(place / "data"), "--checkpoints", str(place / "checkpoints")]
    for wrong, says in (
        (["--models", "real, nobody,"], "no model nobody"),
        (["--json", str(place / "no" / "x.json")], "no folder"),
        (["--clips", "0"], "at least 1"),
        (["--metrics", str(place / "none.pt")], "no checkpoint"),
    ):
        with pytest.raises(SystemExit) as stop:
            evaluate.main([*common, *wrong])
        assert stop.value.code == 2 and says in capsys.readouterr().err


def test_one_video_has_no_other_sentence_to_hear(place):
    args = evaluate.arguments(
        [
            "--data",
            str(place / "data"),
            "--checkpoints",
            str(place / "checkpoints"),
            "--clips",
            "1",
            "--frames",
            "20",
            "--models",
            "wrong_audio",
        ]
    )
    with pytest.raises(ValueError, match="no model wrong_audio"):
        evaluate.evaluate(args)


def test_weights_of_other_chunks_are_refused(tmp_path):
    save_checkpoint(
        tmp_path / "teacher.pt",
        kind="teacher",
        config=dict(channels=16, frames=24, context=4),
        model=small_unet().state_dict(),
    )
    with pytest.raises(ValueError, match="trained with --frames 24"):
        models_in(tmp_path, "cpu")


def test_the_film_shows_the_truth_beside_every_model(place, monkeypatch):
    quick = lambda model, recipe, **k: teacher.teacher_sampler(model, "plain", 1)
    monkeypatch.setattr(models, "teacher_sampler", quick)
    out = place / "film.gif"
    line = ["--data", place / "data", "--checkpoints", place / "checkpoints", "--out", out]
    film.main([*map(str, line), "--size", "64", "--video", "1"])
    with Image.open(out) as made:
        assert made.n_frames == 40 and made.size == (2 * 64, 64 + film.CAPTION)
        first = np.asarray(made.convert("RGB"))[:64, :64].astype(int)
    true = tiny_data.load(place / "data", "test").frames[80]
    assert np.abs(first - true).mean() < 8  # but for the palette
