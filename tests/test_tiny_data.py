import multiprocessing
import shutil

import numpy as np
import pytest
from PIL import Image

import autoencoder
import distill_stage1
import distill_stage2
import teacher
import tiny_data
from common import HERE
from evaluation import table as evaluate
from evaluation import train_metrics
from tiny_data import FIRST_SEED, SPLITS, VIDEO_FRAMES, build, load, make_video
from tiny_data.faces import MOTION
from tiny_data.phones import lips


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Made by several processes; the other tests have conftest.py's pool, which makes no video
    twice."""
    folder = tmp_path_factory.mktemp("toy") / "set"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_data, "multiprocessing", multiprocessing)
        build(folder, "val", 3)
    return folder


def test_a_contact_sheet_has_its_rows_and_a_margin_for_their_labels(tmp_path):
    rows = [np.full((3, 64, 64, 3), value, np.uint8) for value in (10, 200)]
    tiny_data.contact_sheet(tmp_path / "plain.png", rows)
    tiny_data.contact_sheet(tmp_path / "named.png", rows, labels=["student", "truth"])
    plain, named = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("plain", "named"))
    assert plain.shape == (256, 384, 3) and (plain[:128] == 10).all() and (plain[128:] == 200).all()
    margin = named[:, : named.shape[1] - 384]
    assert (named[:, margin.shape[1] :] == plain).all()
    for half in margin[:128], margin[128:]:
        assert 0 < (half < 128).mean() < 0.3  # something is written on white


def test_a_built_split_holds_what_the_seeds_say(folder):
    videos = load(folder, "val")
    frames, mel, wave, motion, phones = make_video(FIRST_SEED["val"] + 1)
    a, b = videos.starts[1:3]
    np.testing.assert_array_equal(videos.frames[a:b], frames)
    np.testing.assert_allclose(videos.mel[4 * a : 4 * b], mel, atol=1e-3)
    np.testing.assert_array_equal(videos.motion[a:b], motion)
    np.testing.assert_array_equal(videos.wave[640 * a : 640 * b], wave)
    assert [tuple(p) for p in videos.phones[1]] == [
        (s, pytest.approx(x), pytest.approx(y)) for s, x, y in phones
    ]
    assert (folder / "val.png").stat().st_size > 1000


def test_the_truth_is_the_lips_of_the_phonemes(folder):
    videos = load(folder, "val")
    times = (np.arange(VIDEO_FRAMES) + 0.5) / 25
    np.testing.assert_allclose(
        videos.motion[:VIDEO_FRAMES, :3], lips(videos.phones[0], times), atol=1e-5
    )
    assert videos.motion.shape[1] == len(MOTION)


def test_splits_share_no_seed():
    ranges = [set(range(FIRST_SEED[s], FIRST_SEED[s] + n)) for s, n in SPLITS.items()]
    assert sum(map(len, ranges)) == len(set.union(*ranges))


def test_a_missing_toy_set_is_built_and_then_kept(tmp_path):
    first = load(tmp_path / "new", "test", n_videos=2)
    assert len(first.starts) == 3
    again = load(tmp_path / "new", "test", n_videos=5)  # it is there: not built anew
    np.testing.assert_array_equal(first.frames, again.frames)


def test_a_failed_build_leaves_nothing_half_written(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(tiny_data.np, "save", broken)
    with pytest.raises(OSError):
        build(tmp_path / "set", "val", 1)
    assert list((tmp_path / "set").iterdir()) == []


def test_a_set_that_is_built_again_is_never_half_removed(tmp_path, monkeypatch):
    build(tmp_path, "val", 1)  # two scripts that start side by side both build what is missing
    remove, complete = shutil.rmtree, []

    def spy(path, **how):
        remove(path, **how)
        complete.append((tmp_path / "val" / "phones.json").exists())

    monkeypatch.setattr(tiny_data.shutil, "rmtree", spy)
    build(tmp_path, "val", 2)
    assert complete and all(complete) and len(load(tmp_path, "val").starts) == 3
    assert {p.name for p in tmp_path.iterdir()} == {"val", "val.png"}


@pytest.mark.parametrize("n", [1, 2, 3, 9, 10, 25])
def test_own_clips_are_split_by_clip(tmp_path, monkeypatch, n):
    clip = lambda i: (
        f"{i:02d}.mp4",
        np.full((20, 64, 64, 3), i, np.uint8),
        np.zeros(640 * 20, np.float32),
    )
    monkeypatch.setattr(
        tiny_data, "load_folder", lambda folder, min_frames: [clip(i) for i in range(n)]
    )
    tiny_data.own_clips.cache_clear()
    (tmp_path / "00.mp4").touch()
    parts = {s: set(np.unique(load(tmp_path, s).frames)) for s in SPLITS}
    assert all(parts.values()) and (
        n < 3 or sum(map(len, parts.values())) == n == len(set.union(*parts.values()))
    )
    assert load(tmp_path, "train").motion.shape == (0, len(MOTION))


def test_a_users_folder_is_never_overwritten(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "film.mp4").write_text("mine")
    for attempt in (lambda: build(tmp_path, "train", 1), lambda: load(tmp_path, "train")):
        with pytest.raises(ValueError):
            attempt()
    assert (tmp_path / "train" / "film.mp4").read_text() == "mine"


def test_a_folder_without_clips_is_refused_in_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError) as error:
        load(tmp_path, "train")
    assert "\n" not in str(error.value)


def test_a_mistyped_folder_is_refused_in_one_line_and_not_made(tmp_path):
    with pytest.raises(ValueError, match="no folder .*clisp") as error:
        load(tmp_path / "clisp", "train")
    assert "\n" not in str(error.value) and not (tmp_path / "clisp").exists()


def test_no_name_is_not_the_folder_one_is_in():
    with pytest.raises(ValueError, match="--data is empty"):
        load("", "train")


def test_the_scripts_folder_and_an_empty_one_get_the_toy_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tiny_data, "HOME", tmp_path / "data/tiny")
    monkeypatch.setitem(SPLITS, "val", 1)
    (tmp_path / "empty").mkdir()
    assert all(len(load(folder, "val").starts) == 2 for folder in ("data/tiny", "empty"))


def test_every_script_looks_for_the_toy_set_where_it_is_built():
    defaults = [
        script.Config().data
        for script in (autoencoder, teacher, train_metrics, distill_stage1, distill_stage2)
    ] + [evaluate.arguments([]).data]
    assert {str(HERE / name) for name in defaults} == {str(tiny_data.HOME)}


@pytest.mark.parametrize(
    "left",
    [
        "train.123.tmp/frames.npy",
        "val.9.old/x",
        "train.png",
        ".DS_Store",
        "Thumbs.db",
        "__MACOSX/x",
    ],
)
def test_what_a_killed_build_or_a_system_left_does_not_stop_the_toy_set(tmp_path, left):
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).write_text("half")
    assert len(load(tmp_path, "val", 1).starts) == 2
    (tmp_path / "notes.txt").write_text("mine")
    assert len(load(tmp_path, "train", 1).starts) == 2  # beside the split that is there


def test_an_empty_split_is_built_and_a_broken_one_is_named(tmp_path):
    (tmp_path / "val").mkdir()
    assert len(load(tmp_path, "val", 1).starts) == 2
    (tmp_path / "val/frames.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="val is damaged: delete it"):
        load(tmp_path, "val", 1)
    (tmp_path / "val/phones.json").unlink()
    with pytest.raises(ValueError, match="exists but is not a toy set"):
        load(tmp_path, "val", 1)


@pytest.mark.parametrize("name", ["frames", "mel", "wave", "motion", "starts"])
def test_a_toy_set_whose_arrays_disagree_is_damaged(tmp_path, name):
    """Of another build, say: one video more or less."""
    load(tmp_path, "val", 1)
    array = np.load(tmp_path / f"val/{name}.npy")
    np.save(tmp_path / f"val/{name}.npy", array[:-1])
    with pytest.raises(ValueError, match="val is damaged: delete it"):
        load(tmp_path, "val", 1)
    np.save(tmp_path / f"val/{name}.npy", array)
    (tmp_path / "val/phones.json").write_text("[]")
    with pytest.raises(ValueError, match="val is damaged: delete it"):
        load(tmp_path, "val", 1)


def test_a_folder_of_other_things_is_not_built_over(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="no usable clip"):
        load(tmp_path, "val", 1)
