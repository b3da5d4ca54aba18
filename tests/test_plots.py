import json
import shutil

import numpy as np
import pytest
from helpers import SHIPPED
from PIL import Image

from evaluation import plots


def test_the_shipped_logs_are_drawn_and_alike_each_time(tmp_path, capsys):
    out = tmp_path / "all"
    out.mkdir()
    plots.main(["--logs", str(SHIPPED), "--out", str(out)])
    assert {p.name for p in out.iterdir()} == {f"{n}.png" for n in plots.CURVES}
    assert str(out / "stage2.png") in capsys.readouterr().out
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(SHIPPED / "stage2.log.jsonl", again)
    plots.main(["--logs", str(again), "--out", str(again)])
    assert (again / "stage2.png").read_bytes() == (out / "stage2.png").read_bytes()


def test_a_log_is_read_key_by_key_with_the_steps_that_have_it(tmp_path):
    lines = [{"config": {}}, {"step": 1, "g": 2.0}, {"step": 2, "g": 1.0, "jaw": 0.5}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = plots.read_log(tmp_path / "log.jsonl")
    assert found["g"] == ([1, 2], [2.0, 1.0]) and found["jaw"] == ([2], [0.5])


def test_tables_are_drawn(tmp_path):
    row = dict(jaw_corr=0.9, width_corr=0.8, round_corr=0.7, fvd=8.0)
    table = [dict(model=m, nfe=n, **row) for m, n in (("teacher", 120), ("stage2", 1), ("x", 3))]
    keys = "jaw_corr fid fvd head_std_ratio blink_rate_ratio frame_change_ratio".split()
    variants = [dict(variant=v, **{k: [1.0, 2.0] for k in keys}) for v in ("full", "hinge")]
    for name, rows in ("table", table), ("ablation", variants):
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": rows}))
        flags = [f"--{name}", str(tmp_path / f"{name}.json"), "--logs", str(tmp_path)]
        plots.main([*flags, "--out", str(tmp_path)])
    for name in "quality", "ablation":
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--out", "nowhere"], "is no folder"),
        (["--logs", "nowhere"], "nothing to draw"),
        (["--logs", ".", "--table", "nowhere.json"], "no table of this project"),
        (["--logs", ".", "--table", "other.json"], "other.json is no table of this project"),
        (["--logs", ".", "--ablation", "table.json"], "table.json is no table of this project"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(tmp_path, monkeypatch, capsys, flags, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.json").write_text('{"rows": [{"variant": "full"}]}')  # of the other kind
    (tmp_path / "table.json").write_text('{"rows": [{"model": "stage1"}]}')
    with pytest.raises(SystemExit) as stop:
        plots.main([*(["--out", "."] if "--out" not in flags else []), *flags])
    assert stop.value.code == 2 and says in capsys.readouterr().err
