"""The course: student versions hold no solutions, and the grader is fair."""

import json
import re
import textwrap

import pytest

from course import grade, make
from course.labs import LABS, Place, functions
from course.make import ROOT, blank, read, restore, span

CODED = [lab for lab in LABS if lab != 8]
# lines of solutions that are idioms of the whole code
COMMON = {
    "with torch.no_grad():",
    "with bfloat16(), torch.no_grad():",
    "with torch.autocast(device.type, torch.bfloat16, enabled=cfg.bf16):",
    "mask = cond.mask[:, :, None, None, None]",
    "free = (1 - mask)[:, :, None, None, None]",
    "average_gradients(network)",
    "optimiser.zero_grad(set_to_none=True)",
    'optimiser.param_groups[0]["lr"] = lr',
}


@pytest.fixture(scope="module")
def student_versions(tmp_path_factory):
    out = tmp_path_factory.mktemp("labs")
    make.main(["--all", "--out", str(out)])
    return out


def bare(line):
    """A line of code without its comment, its spaces and its "return"."""
    return "".join(line.split("#")[0].split()).removeprefix("return")


def solution(task):
    """The lines that make.py takes away, as they are compared."""
    source, found = read(ROOT / task.file), set()
    for place in task.places:
        first, last = span(source, place)
        found |= {bare(line) for line in source.splitlines()[first - 1 : last]}
    return {line for line in found - set(map(bare, COMMON)) if len(line) >= 20}


# ---------------------------------------------------------------- the student versions


@pytest.mark.parametrize("lab", CODED)
def test_nothing_of_a_solution_is_in_the_student_version(student_versions, lab):
    gone = set.union(*map(solution, LABS[lab]))
    assert len(gone) > 5
    for path in (student_versions / f"lab{lab}").rglob("*"):
        if path.suffix in (".py", ".md", ".sh"):
            text = "\n".join(map(bare, read(path).splitlines()))
            assert not [line for line in gone if line in text], path
        assert path.name not in (".git", "__pycache__", "notebook.md", "grade.py", "labs.py")


@pytest.mark.parametrize("lab", CODED)
def test_with_the_solutions_put_back_the_code_is_the_repositorys(student_versions, lab):
    folder, blanks = student_versions / f"lab{lab}", 0
    files = {task.file: [] for task in LABS[lab]}
    for task in LABS[lab]:
        files[task.file] += task.places
    for path in folder.rglob("*.py"):
        name = path.relative_to(folder).as_posix()
        if not name.startswith("tests/"):
            text, original = read(path), read(ROOT / name)
            blanks += text.count(f'raise NotImplementedError("lab {lab}, task ')
            assert restore(text, original, files.get(name, [])) == original
            assert (text == original) == (name not in files)
    assert blanks == sum(len(task.places) for task in LABS[lab])
    tests = {path.name for path in (folder / "tests").iterdir()}
    assert tests == {f"test_lab{lab}.py", "tiny.py"} and (folder / "course").is_dir()


def test_weights_page_and_its_pictures_are_in_the_student_version(student_versions):
    for lab in LABS:
        folder = student_versions / f"lab{lab}"
        assert (folder / "checkpoints/teacher.pt").exists()
        page = (folder / f"course/lab{lab}.md").resolve()
        names = re.findall(r"!\[.*?\]\((.*?)\)", read(page))
        shown = {(page.parent / name).resolve() for name in names}
        # what its commands name
        used = re.findall(r"(?:course|docs)/[a-z_]+\.(?:py|json)\b", read(page))
        shown |= {folder.resolve() / name for name in used} | {page.parent / "figures.py"}
        assert all(path.is_file() for path in shown)
        assert {path for path in page.parent.rglob("*") if path.is_file()} <= {page, *shown}
    assert (student_versions / "lab8/project.md").exists()


def test_signature_docstring_and_comments_stay():
    source = 'def f(x):\n    """Doc."""\n\n    # how\n    return x\n\n\n# after\ny = 1\n'
    want = 'def f(x):\n    """Doc."""\n    raise NotImplementedError("t")\n\n\n# after\ny = 1\n'
    assert blank(source, functions("f"), "t") == want
    loop = "def f(x):\n    for i in x:\n        # why\n        a = i\n        b = a\n    return b\n"
    want = loop.replace(
        "        a = i\n        b = a\n", '        raise NotImplementedError("t")\n'
    )
    assert blank(loop, [Place("f", "a = i", "b =")], "t") == want


def test_every_task_has_three_to_six_tests_and_a_lab_60_points():
    for lab, tasks in LABS.items():
        assert sum(task.points for task in tasks) == (60 if lab != 8 else 10)
        for number in range(1, len(tasks) + 1):
            assert 3 <= len(grade.wanted(lab, number)) <= 6, (lab, number)
        names = [(task.file, name) for task in tasks for name in {p.name for p in task.places}]
        assert len(names) == len(set(names)) or lab == 8


@pytest.mark.parametrize(
    "script, line, message",
    [
        (make, ["--lab", "9", "--out", "new"], "invalid choice"),
        (make, ["--lab", "1"], "--out"),
        (make, ["--lab", "1", "--out", "full"], "full is there and not empty"),
        (grade, ["--lab", "1", "nowhere"], "nowhere is not a folder"),
        (grade, ["full"], "--lab"),
    ],
)
def test_a_wrong_command_line_is_one_line(script, line, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        script.main(line)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1


# ---------------------------------------------------------------- the grader


def hand_in(folder, lab, solved=()):
    """A folder with the files of a lab, blank but for the tasks `solved` -> the folder."""
    for number, task in enumerate(LABS[lab], 1):
        path = folder / task.file
        path.parent.mkdir(parents=True, exist_ok=True)
        text = read(path) if path.exists() else read(ROOT / task.file)
        path.write_text(text if number in solved else blank(text, task.places, f"task {number}"))
    return folder


def points(results):
    return [row["score"] for row in results["tests"]]


def test_a_task_has_its_points_whatever_the_others_are(tmp_path):
    folder = hand_in(tmp_path, 7, solved=[2])
    assert grade.mark(7, 2, folder) == (True, "4 tests pass")
    right, line = grade.mark(7, 3, folder)
    assert not right and "NotImplementedError: task 3" in line and "\n" not in line


def test_files_that_cannot_be_read_are_named(tmp_path):
    assert grade.mark(3, 1, tmp_path) == (False, "distill_stage1.py is missing")
    (tmp_path / "distill_stage1.py").write_text("def f(:\n")
    assert grade.mark(3, 1, tmp_path) == (False, "distill_stage1.py, line 1: invalid syntax")
    (tmp_path / "distill_stage1.py").write_bytes(b"\xff\xfe\x00")
    assert grade.mark(3, 1, tmp_path) == (False, "distill_stage1.py is not UTF-8")


@pytest.mark.slow
@pytest.mark.parametrize("lab", CODED)
def test_blank_scores_nothing_and_the_repository_everything(student_versions, lab, tmp_path):
    make_result = tmp_path / "results.json"
    grade.main(["--lab", str(lab), str(student_versions / f"lab{lab}"), "--json", str(make_result)])
    results = json.loads(make_result.read_text())
    assert results["score"] == 0 and points(results) == [0] * len(LABS[lab])
    for number, row in enumerate(results["tests"], 1):
        assert f"NotImplementedError: lab {lab}, task {number}" in row["output"]
        assert {"name", "score", "max_score", "output", "status"} <= row.keys()
    results = grade.grade(lab, ROOT)
    assert results["score"] == 60, results["tests"]


@pytest.mark.slow
@pytest.mark.parametrize("lab", CODED)
def test_each_task_comes_and_goes_alone(lab, tmp_path):
    odd = range(1, len(LABS[lab]) + 1, 2)
    folder = hand_in(tmp_path, lab, solved=odd)
    assert [p > 0 for p in points(grade.grade(lab, folder))] == [
        number in odd for number in range(1, len(LABS[lab]) + 1)
    ]


@pytest.mark.slow
def test_a_hang_an_exit_and_a_flood_cost_only_their_own_points(tmp_path, monkeypatch):
    folder = hand_in(tmp_path, 3, solved=range(1, 6))
    path = folder / "distill_stage1.py"
    bad = """
def dmd_gradient(x0_fake, x0_real, x0_hat, mask):
    while True:
        pass

def dmd_loss(x0_hat, g, mask):
    import os
    os._exit(0)

def fake_loss(fake, x0_hat, cond, t, eps):
    print("no " * 10_000_000)
    raise SystemExit(0)
"""
    path.write_text(restore(read(path), bad, functions("dmd_gradient", "dmd_loss", "fake_loss")))
    assert grade.mark(3, 1, folder) == (True, "4 tests pass")
    assert grade.mark(3, 3, folder) == (False, "the program ended before the tests did (exit?)")
    right, line = grade.mark(3, 4, folder)
    assert not right and "SystemExit" in line and len(line) <= 200
    monkeypatch.setattr(grade, "LIMIT", 20)
    assert grade.mark(3, 2, folder) == (False, "not finished after 20 seconds")


@pytest.mark.slow
def test_an_exit_at_import_costs_the_tasks_of_that_file(tmp_path):
    folder = hand_in(tmp_path, 1, solved=range(1, 7))
    path = folder / "diffusion.py"
    path.write_text(read(path) + "\nimport os\nos._exit(0)\n")
    assert [grade.mark(1, number, folder)[0] for number in (1, 3, 6)] == [False, False, True]


@pytest.mark.slow
def test_edited_tests_and_other_files_count_for_nothing(tmp_path):
    folder = hand_in(tmp_path, 7)
    (folder / "tests").mkdir()
    good = "import pytest\n@pytest.fixture(autouse=True)\ndef f(): pass\ndef test_1_x(): pass\n"
    hook = "def pytest_pyfunc_call(pyfuncitem):\n    return True\n"
    (folder / "tests/test_lab7.py").write_text(good)
    for name in ("conftest.py", "tests/conftest.py", "sitecustomize.py", "evaluation/conftest.py"):
        (folder / name).write_text(hook)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --co\n")
    assert not grade.mark(7, 1, folder)[0] and not grade.mark(7, 2, folder)[0]


PROJECT = """# Without self-compare

## Prediction

2026-11-01: FID-toy rises by one half, since nothing anchors the frames.

## Setting

`python -m evaluation.ablate --bf16 --seeds 3`, 25 minutes a run.

## Results

| variant | seed | FID-toy | jaw |
|---|---:|---:|---:|
| full | 0 | 3.0 | 0.92 |
| full | 1 | 4.0 | 0.92 |
| full | 2 | 3.5 | 0.92 |
| none | 0 | 5.0 | 0.90 |
| none | 1 | 5.2 | 0.90 |
| none | 2 | 4.8 | 0.90 |

## The sentence

Without self-compare FID-toy is 5.0 ± 0.2 instead of 3.5 ± 0.5 in three seeds of this toy, and
other scales were not tried.
"""


def test_a_project_is_checked_for_its_form(tmp_path):
    (tmp_path / "project.md").write_text(PROJECT)
    assert grade.mark(8, 1, tmp_path) == (True, "5 tests pass")
    (tmp_path / "project.md").write_text(PROJECT.replace("3.5 ± 0.5", "3.5 ± 0.1"))
    right, line = grade.mark(8, 1, tmp_path)
    assert not right and "3.5 ± 0.1 is not in the table" in line
    (tmp_path / "project.md").write_text(read(ROOT / "course/project.md"))
    assert not grade.mark(8, 1, tmp_path)[0]


# ---------------------------------------------------------------- right, but written otherwise

OTHERWISE = {
    1: """
def alpha_sigma(t, ndim=5):
    t = torch.as_tensor(t, dtype=torch.float64).reshape(-1)
    if bool((t < 0).any()) or bool((t > T).any()) or bool(t.isnan().any()):
        raise ValueError("a time outside")
    angle = t * (torch.pi / (2 * T))
    alpha = angle.cos()
    alpha[t == T] = 0
    shape = (len(t),) + (1,) * (ndim - 1)
    return alpha.view(shape), angle.sin().view(shape)

def add_noise(x0, eps, t):
    alpha, sigma = (x.to(x0) for x in alpha_sigma(t, x0.dim()))
    return torch.addcmul(eps * sigma, x0, alpha)

def v_target(x0, eps, t):
    alpha, sigma = alpha_sigma(t, len(x0.shape))
    return -(sigma * x0 - alpha * eps)

def x0_from_v(xt, v, t):
    angle = torch.as_tensor(t).double().reshape(-1, *[1] * (xt.ndim - 1)) / T * torch.pi / 2
    return (torch.cos(angle) * xt - torch.sin(angle) * v).to(xt.dtype)

def eps_from_v(xt, v, t):
    a, s = alpha_sigma(t, xt.ndim)
    return v * a + xt * s

def ddim_step(xt, v, t, s):
    turn = ((torch.as_tensor(t) - torch.as_tensor(s)) / T * torch.pi / 2).reshape(-1, 1, 1, 1, 1)
    return turn.cos() * xt - turn.sin() * v

@torch.no_grad()
def ddim_sample(model, cond, eps, steps=STEPS, s_ref=S_REF, s_audio=S_AUDIO):
    x, ts = eps.clone(), trailing_timesteps(steps)
    for i in range(steps):
        t = torch.tensor([ts[i]] * len(eps))
        s = torch.tensor([ts[i + 1]] * len(eps))
        v = guided_v(model, x, t, cond, s_ref, s_audio)
        moved = ddim_step(x, v, t, s)
        x = hold_context(moved, cond, eps, s) if ts[i + 1] > 0 else hold_context(moved, cond)
    return x
""",
    2: """
def drop(cond, keep_ref, keep_audio):
    ref, audio = cond.ref.clone(), cond.audio.clone()
    ref[keep_ref == 0] = 0
    audio[keep_audio == 0] = 0
    return Cond(ref, audio, cond.context, cond.mask)

def guide(v_none, v_ref, v_full, s_ref, s_audio):
    return (1 - s_ref) * v_none + (s_ref - s_audio) * v_ref + s_audio * v_full

def hold_context(x, cond, eps=None, t=None):
    context = cond.context
    if eps is not None:
        context = add_noise(context, eps, t)
    return torch.where(cond.mask.bool()[..., None, None, None], context, x)

def guided_v(model, xt, t, cond, s_ref, s_audio):
    zeros, ones = torch.zeros(len(xt)), torch.ones(len(xt))
    full = model(xt, t, cond)
    if s_ref == 1 and s_audio == 1:
        return full
    ref = model(xt, t, drop(cond, ones, zeros))
    if s_ref == 1:
        return ref + s_audio * (full - ref)
    none = model(xt, t, drop(cond, zeros, zeros))
    return guide(none, ref, full, s_ref, s_audio)

def v_loss(v_hat, v, mask):
    return (v_hat - v).pow(2)[mask == 0].mean()
""",
    3: """
def real_score(teacher, xt, t, cond, s_ref, s_audio):
    v = guided_v(teacher, xt, t, cond, s_ref=s_ref, s_audio=s_audio)
    angle = (t / T * torch.pi / 2).view(-1, 1, 1, 1, 1)
    return angle.cos() * xt - angle.sin() * v

def fake_score(fake, xt, t, cond):
    return real_score(fake, xt, t, cond, 1, 1)

def dmd_gradient(x0_fake, x0_real, x0_hat, mask):
    g = torch.zeros_like(x0_hat, requires_grad=False)
    with torch.no_grad():
        for b in range(len(x0_hat)):
            free = mask[b] == 0
            scale = (x0_hat[b, free] - x0_real[b, free]).abs().mean()
            g[b, free] = (x0_fake[b, free] - x0_real[b, free]) / max(float(scale), 1e-5)
    return g

def dmd_loss(x0_hat, g, mask):
    free = mask == 0
    with torch.no_grad():
        target = x0_hat[free] - g[free]
    return torch.nn.functional.mse_loss(x0_hat[free], target) / 2

def fake_loss(fake, x0_hat, cond, t, eps):
    with torch.no_grad():
        xt, v = add_noise(x0_hat, eps, t), v_target(x0_hat, eps, t)
    error = fake(xt, t, cond) - v
    return error[cond.mask == 0].square().mean()
""",
    4: """
def predict(student, xt, tau, cond):
    t = tau if torch.is_tensor(tau) and tau.ndim else torch.full((len(xt),), float(tau))
    t = t.float()
    x0 = x0_from_v(xt, student(xt, t, cond), t)
    return torch.where(cond.mask.bool()[..., None, None, None], cond.context, x0)

def rollout(student, cond, noise, taus):
    x0_hat = None
    for i, tau in enumerate(taus):
        eps = noise()
        xt = eps if i == 0 else add_noise(x0_hat, eps, tau)
        with torch.set_grad_enabled(torch.is_grad_enabled() and i + 1 == len(taus)):
            x0_hat = predict(student, xt, tau, cond)
    return x0_hat

def optimise(step, name, network, optimiser, lr, loss):
    params = [p for p in network.parameters() if p.requires_grad]
    for p, g in zip(params, torch.autograd.grad(loss, params, allow_unused=True)):
        p.grad = g
    average_gradients(network)
    norm = torch.sqrt(sum(p.grad.square().sum() for p in params if p.grad is not None))
    check_finite(step, loss=loss.item(), gradient=norm.item())
    for p in params:
        if p.grad is not None and norm > 1:
            p.grad /= norm
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.step()
    return float(norm)
""",
    5: """
def phases(cfg):
    plan = [Phase(4, 4, cfg.warm_disc, False)]
    if cfg.progressive:
        plan += [Phase(n + 1, n, cfg.phase_steps if n > 1 else cfg.last_steps) for n in (3, 2, 1)]
    else:
        plan.append(Phase(before=4, steps=1, updates=cfg.last_steps + cfg.phase_steps * 2))
    return tuple(plan)

def phase_timesteps(n):
    return tuple(T - i * T / n for i in range(n))

def draw_last(before, n, i, warm, u):
    if i >= warm:
        return u * 0 + T / n
    start, end = T / before, T / n
    reach = start + (end - start) * (i + 1) / warm
    return torch.lerp(torch.full_like(u, start), torch.full_like(u, reach), u)

def warm_timesteps(n, i, warm, last):
    taus = list(trailing_timesteps(n)[:n])
    if n > 1:
        taus[-1] = last
        return taus
    return [torch.full_like(last, T), last] if i < warm else [last]
""",
    6: """
def pair_loss(above, below):
    return -F.logsigmoid(above - below).mean()

def self_compare_loss(better, worse):
    return torch.logaddexp(torch.zeros_like(better), worse - better).mean()

def disc_loss(kind, real, fake):
    if kind == "hinge":
        return (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()
    if kind == "vanilla":
        return -F.logsigmoid(real).mean() - F.logsigmoid(-fake).mean()
    return F.softplus(fake - real).mean()

def gen_loss(kind, real, fake):
    losses = dict(hinge=-fake, vanilla=F.softplus(-fake), relativistic=F.softplus(real - fake))
    return losses[kind].mean()

def disc_objective(kind, real, reference, fake, weight):
    loss = disc_loss(kind, real, fake)
    return loss + weight * pair_loss(reference, fake) if weight else loss

def gen_objective(kind, real, reference, fake, weight):
    loss = gen_loss(kind, real, fake)
    return loss + weight * pair_loss(fake, reference) if weight else loss

def penalty(disc, xt, t, cond, value, n):
    keep = (1 - cond.mask)[:, :, None, None, None]
    moved = disc(xt + SIGMA * n * keep, t, cond)
    return (disc(xt, t, cond) - moved).pow(2).mean()

class Discriminator:
    def forward(self, xt, t, cond):
        import torch
        b, f = cond.mask.shape
        total = torch.zeros(b, f)
        for i, level in enumerate(self.network.features(xt, t, cond)):
            total = total + self.heads[i](level).float().flatten(1).sum(1).view(b, f)
        return torch.stack([total[i][cond.mask[i] == 0].mean() for i in range(b)])
""",
    7: """
def frechet_distance(mu1, cov1, mu2, cov2):
    from scipy import linalg
    mu1, cov1, mu2, cov2 = map(np.asarray, (mu1, cov1, mu2, cov2))
    d = len(mu1)
    if mu2.shape != (d,) or cov1.shape != (d, d) or cov2.shape != (d, d):
        raise ValueError("shapes")
    roots = np.sqrt(np.abs(linalg.eigvals(cov1 @ cov2)))
    found = ((mu1 - mu2) ** 2).sum() + np.trace(cov1 + cov2) - 2 * roots.sum()
    return max(0, found)

def correlation(a, b):
    a, b = np.ravel(np.asarray(a, float)), np.ravel(np.asarray(b, float))
    if a.std() < 1e-9 or b.std() < 1e-9:
        return 0
    return np.corrcoef(a, b)[0, 1]

def best_lag(a, b, max_lag=8):
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    best, lag = -np.inf, 0
    for k in sorted(range(-max_lag, max_lag + 1), key=abs):
        late, early = (a[:, k:], b[:, : b.shape[1] - k]) if k >= 0 else (a[:, :k], b[:, -k:])
        r = correlation(late, early)
        if r > best + 1e-9:
            best, lag = r, k
    return lag

def blink_statistics(track, on=0.6, off=0.3):
    lengths, count, track = [], 0, np.atleast_2d(track)
    for row in track:
        state, begun = ("counted", None) if row[0] > off else ("open", None)
        for k in range(len(row)):
            if state == "open" and row[k] > on:
                state, begun, count = "shut", k, count + 1
            elif state != "open" and row[k] < off:
                if begun is not None:
                    lengths.append(k - begun)
                state, begun = "open", None
    rate = count * FPS / track.size
    return rate, (sum(lengths) / len(lengths) / FPS if lengths else np.nan)

def sync_curve(v, a, max_offset=MAX_OFFSET):
    v, a = v.numpy(), a.numpy()
    rows = []
    for o in range(-max_offset, max_offset + 1):
        pairs = [(k, k + o) for k in range(v.shape[1]) if 0 <= k + o < v.shape[1]]
        if len(pairs) < 5:
            rows.append(np.full(len(v), np.nan))
        else:
            i, j = zip(*pairs)
            rows.append(np.linalg.norm(v[:, list(i)] - a[:, list(j)], axis=-1).mean(1))
    return np.stack(rows, 1)

def sync_scores(v, a, max_offset=MAX_OFFSET):
    found = []
    for curve in sync_curve(v, a, max_offset):
        known = curve[np.isfinite(curve)]
        if not len(known):
            raise ValueError("too short")
        least = known.min()
        offset = int(np.where(curve == least)[0][0]) - max_offset
        found.append((np.median(known) - least, least, offset))
    return tuple(np.array(column) for column in zip(*found))
""",
}
# stretches of a script's `train`, in their order there
LOOPS = {
    2: """
keep_ref = torch.where(drawn < cfg.drop_ref, 0.0, 1.0)
keep_audio = torch.where(drawn < cfg.drop_audio + cfg.drop_ref, 0.0, 1.0)
c, xt, v = drop(cond, keep_ref, keep_audio), add_noise(x0, eps, t), v_target(x0, eps, t)
with torch.autocast(device.type, torch.bfloat16, enabled=cfg.bf16):
    loss = v_loss(model(xt, t, c), v, c.mask)
""",
    3: """
eps = score_noise()
t = (0.98 - 0.96 * uniform()) * T
with bfloat16():
    xt = add_noise(x0_hat, eps, t).detach()
    x0_fake = fake_score(fake, xt, t, cond).detach()
    x0_real = real_score(teacher, xt, t, cond, s_ref=cfg.s_ref, s_audio=cfg.s_audio)
g = dmd_gradient(x0_fake, x0_real.detach(), x0_hat.detach(), cond.mask)
loss = dmd_loss(x0_hat, g, cond.mask)
""",
    4: """
k = int(torch.randint(1, cfg.target_steps + 1, (1,), generator=generator))
with bfloat16(), torch.set_grad_enabled(student_learns):
    if cfg.simulate == "data":
        xt = add_noise(x0, student_noise(), taus[k - 1])
        x0_hat = predict(student, xt, taus[k - 1], cond)
    else:
        x0_hat = rollout(student, cond, student_noise, taus[:k])
---
losses = []
for _ in range(cfg.fake_updates):
    eps, t = score_noise(), (uniform() * T).clamp_min(1e-3)
    with bfloat16():
        loss = fake_loss(fake, x0_hat.detach(), cond, t, eps)
    optimise(step, "fake score", fake, fake_optimiser, decay * cfg.fake_lr, loss)
    losses.append(loss.item())
if losses:
    row["fake_loss"] = sum(losses) / len(losses)
""",
    5: """
last = draw_last(phase.before, phase.steps, i, cfg.curriculum, uniform())
taus = warm_timesteps(phase.steps, i, cfg.curriculum, last)
with bfloat16():
    if phase.student_learns:
        x0_hat = rollout(student, cond, student_noise, taus)
    else:
        with torch.no_grad():
            x0_hat = rollout(student, cond, student_noise, taus)
""",
    6: """
real, ref, fake = (disc(xts[i], t, cond) for i in (0, 2, 1))
loss_d = disc_loss(cfg.gan, real, fake)
r = penalty(disc, xts[0], t, cond, real, penalty_noises[0])
r = r + penalty(disc, xts[1], t, cond, fake, penalty_noises[1])
if cfg.self_compare:
    r = r + penalty(disc, xts[2], t, cond, ref, penalty_noises[2])
    if phase.student_learns:
        loss_d = loss_d + cfg.self_compare * self_compare_loss(ref, fake)
loss_d = loss_d + r * cfg.penalty
---
real, fake, ref = (disc(xt, t, cond) for xt in (xt_real, xt_fake, xt_ref))
loss_g = gen_objective(cfg.gan, real.detach(), ref.detach(), fake, cfg.self_compare)
""",
}


def written_otherwise(source, tasks, bodies, stretches):
    """The source text with the places of these tasks replaced."""
    places = [place for task in tasks for place in task.places]
    for place in places:
        if place.name != "train":
            source = restore(source, bodies, [place])
    loop = [place for place in places if place.name == "train"]
    texts = stretches.split("---\n") if loop else []
    assert len(texts) == len(loop)
    for place, text in zip(loop, texts):
        lines = source.splitlines(keepends=True)
        first, last = span(source, place)
        indent = lines[first - 1][: -len(lines[first - 1].lstrip())]
        lines[first - 1 : last] = textwrap.indent(text.strip("\n") + "\n", indent)
        source = "".join(lines)
    return source


@pytest.mark.slow
@pytest.mark.parametrize("lab", CODED)
def test_right_solutions_written_otherwise_have_all_points(lab, tmp_path):
    folder = hand_in(tmp_path, lab, solved=range(1, 9))
    for file in {task.file for task in LABS[lab]}:
        tasks = [task for task in LABS[lab] if task.file == file]
        text = written_otherwise(read(folder / file), tasks, OTHERWISE[lab], LOOPS.get(lab, ""))
        (folder / file).write_text(text)
    results = grade.grade(lab, folder)
    assert results["score"] == 60, results["tests"]
