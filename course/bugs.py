"""Find the bug: one-line bugs of the kinds that public diffusion, DMD and GAN code has had.

python course/bugs.py                        their numbers, files and short runs
python course/bugs.py --answers              and the lines, symptoms, tests and sources
python course/bugs.py --plant 7 --out DIR    this repository with bug 7, without its tests
python course/bugs.py --plant 0 --out DIR    the same without a bug, to compare with
python course/bugs.py --check                plant each one, run its test: a table (minutes)
python course/bugs.py --score DIR            how many of them a student's tests in DIR catch
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from common import Parser, one_line_errors  # noqa: E402
from course.bug_table import BUGS  # noqa: E402
from course.make import FOLDERS, TOP, taken  # noqa: E402

LIMIT = 300  # seconds, for one run of the tests
NO_CACHE = shutil.ignore_patterns("__pycache__")

# ---------------------------------------------------------------- planting


def planted(bug, root=ROOT):
    """The text of the bug's file with the bug in it. Raises ValueError unless `before` is there
    exactly once."""
    text = (Path(root) / bug.file).read_text(encoding="utf-8")
    if text.count(bug.before) != 1:
        raise ValueError(f"{bug.file} has {text.count(bug.before)} times {bug.before!r}, not once")
    return text.replace(bug.before, bug.after)


def copy(out, folders):
    """The repository's scripts and these of its folders."""
    out.mkdir(parents=True, exist_ok=True)
    for path in (path for pattern in TOP for path in ROOT.glob(pattern)):
        shutil.copy(path, out)
    for folder in folders:
        shutil.copytree(ROOT / folder, out / folder, ignore=NO_CACHE)


def plant(number, out):
    """Bug `number` (0: none) in a copy of the repository without tests, course and git."""
    if not 0 <= number <= len(BUGS):
        raise ValueError(f"--plant takes 0 to {len(BUGS)}, got {number}")
    out = Path(out).resolve()
    if taken(out):
        raise ValueError(f"--out {out} is not empty: name a new folder")
    if out.is_relative_to(ROOT):
        raise ValueError(f"--out {out} lies in this repository: name a folder outside")
    text = planted(BUGS[number - 1]) if number else ""
    copy(out, FOLDERS)
    if number:
        (out / BUGS[number - 1].file).write_text(text, encoding="utf-8")


# ---------------------------------------------------------------- checking


def run_tests(tree, tests):
    """In a process of its own: pytest in `tree`; exits with 0 if all of them pass."""
    import pytest

    for name, module in list(sys.modules.items()):  # those of this repository, not of the tree
        file = getattr(module, "__file__", None) or ""
        if file.startswith(str(ROOT)) and "site-packages" not in file:
            del sys.modules[name]
    os.chdir(tree)
    os.environ["PYTHONDONTWRITEBYTECODE"], sys.dont_write_bytecode = "1", True
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() not in (ROOT, ROOT / "course")]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1), os.dup2(nowhere, 2)
    options = ["-x", "-q", "-p", "no:cacheprovider", "--rootdir", str(tree)]
    sys.exit(pytest.main([*options, *tests]))


def ends(tree, tests):
    """How pytest ends in `tree`: 0 all pass, 1 some fail, else it could not run; None after LIMIT
    seconds."""
    child = multiprocessing.Process(target=run_tests, args=(tree, tests))
    child.start(), child.join(LIMIT)
    if child.is_alive():
        child.kill(), child.join()
        return None
    return child.exitcode


def plant_each(tests, tests_of):
    """Every bug in turn in a copy of the repository whose tests are the folder `tests`; runs
    tests_of(bug) there. Yields how that ended without any bug, then with each."""
    # what takes seconds to load, once for all processes
    import scipy.linalg  # noqa: F401
    import torch._dynamo  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        copy(tree, [name for name in FOLDERS if name != "checkpoints"])
        (tree / "checkpoints").symlink_to(ROOT / "checkpoints")  # many megabytes
        shutil.copytree(tests, tree / "tests", ignore=NO_CACHE)
        yield ends(tree, sorted({test for bug in BUGS for test in tests_of(bug)}))
        for bug in BUGS:
            path = tree / bug.file
            right = path.read_text(encoding="utf-8")
            path.write_text(planted(bug), encoding="utf-8")
            yield ends(tree, tests_of(bug))
            path.write_text(right, encoding="utf-8")


def check():
    """Plant every bug in turn and run its test, which must fail, and pass without. Prints a table.
    Raises ValueError naming those that are not caught."""
    runs, missed = plant_each(ROOT / "tests", lambda bug: [bug.test]), []
    if next(runs) != 0:
        raise ValueError("a test of the table fails without any bug")
    start = time.perf_counter()
    for number, (bug, end) in enumerate(zip(BUGS, runs), 1):
        if end not in (0, 1):
            raise ValueError(f"{bug.test}: pytest ended with {end}")
        now = time.perf_counter()
        word = "caught" if end else "MISSED"
        print(f"{number:>3}  {word}  {now - start:>5.1f} s  {bug.test}", flush=True)
        start = now
        if not end:
            missed.append(str(number))
    if missed:
        raise ValueError(f"not caught: {', '.join(missed)}")
    print(f"all {len(BUGS)} caught")


def score(tests):
    """Prints which bugs the tests in a folder catch. Raises ValueError unless they pass without a
    bug, within LIMIT seconds."""
    if not list(Path(tests).glob("test_*.py")):
        raise ValueError(f"--score {tests} holds no test_*.py")
    runs = plant_each(tests, lambda bug: ["tests"])
    if (end := next(runs)) != 0:
        how = f"take more than {LIMIT} s" if end is None else "fail, or cannot be run,"
        raise ValueError(f"the tests in {tests} {how} on the right code: no points")
    caught = 0
    for number, end in enumerate(runs, 1):
        print(f"{number:>3}  {'caught' if end != 0 else '-'}", flush=True)
        caught += end != 0
    print(f"{caught} of {len(BUGS)} caught")


def listing(answers):
    """-> the lines that are printed."""
    lines = []
    for number, bug in enumerate(BUGS, 1):
        lines.append(f"{number:>3}  {bug.file}" + (f"\n     run: {bug.see}" if bug.see else ""))
        if answers:
            rows = dict(bug._asdict(), reported=bug.reported or "-")
            for key in ("before", "after", "symptom", "shows", "test", "reported"):
                lines.append(f"     {key}: {rows[key].strip()}")
    return lines


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--answers", action="store_true", help="with lines, symptoms and tests")
    parser.add_argument("--plant", type=int, metavar="K", help="the bug's number, 0 = none")
    parser.add_argument("--out", metavar="DIR", help="of --plant: a new folder")
    parser.add_argument("--check", action="store_true", help="run each bug's test")
    parser.add_argument("--score", metavar="DIR", help="a folder of test_*.py")
    with one_line_errors():
        args = parser.parse_args(argv)
        if (args.plant is None) != (args.out is None):
            parser.error("--plant and --out go together")
        if args.check:
            check()
        elif args.score:
            score(args.score)
        elif args.plant is not None:
            plant(args.plant, args.out)
            print(f"{args.out}: {'bug' if args.plant else 'no bug'} planted")
        else:
            print(*listing(args.answers), sep="\n")


if __name__ == "__main__":
    main()
