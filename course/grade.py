"""Mark a lab: the grader's own tests on the files that a student hands in.

    python course/grade.py --lab 3 ../lab3                       a table
    python course/grade.py --lab 3 ../lab3 --json results.json   and Gradescope's results.json
    python course/grade.py --lab 3 .                             the repository itself: full marks

Each task is marked in a process of its own, on the repository with one file of the student's in
place of its own, and in that file the lab's other tasks are the repository's. So a task's points
depend on that task alone, and nothing else in DIR counts: it need hold no more than the files
handed in. A task has its points if all of its tests pass. Exit code 0 whatever the score.
"""

import ast
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
import torch._dynamo  # noqa: F401  as optimisers do: once here, not in every process

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import distill_stage2  # noqa: E402, F401  and all that it imports, for the same reason
from common import Parser, one_line_errors  # noqa: E402
from course.labs import LABS  # noqa: E402
from course.make import read, restore  # noqa: E402

TESTS = ROOT / "course/tests"
OWN = {path.stem for path in ROOT.glob("*.py")}  # names of the repository's modules
OWN |= {"evaluation", "tiny_data", "course", "conftest", "helpers", "tiny"}
# on Linux a task's process starts as a copy of this one, in which torch is imported already
PROCESSES = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
LIMIT = 120  # seconds a task
torch.set_num_threads(1)


def tree(lab, number, submission, out):
    """The student's version of one task in the folder `out`, from where it is imported before the
    repository's. Raises ValueError for a file that is missing or no Python."""
    out.mkdir()
    task = LABS[lab][number - 1]
    path = Path(submission, task.file)
    if not path.is_file():
        raise ValueError(f"{task.file} is missing")
    source = read(path)
    if task.places:
        others = [other for other in LABS[lab] if other.file == task.file and other is not task]
        places = [place for other in others for place in other.places]
        try:
            source = restore(source, read(ROOT / task.file), places)
        except (SyntaxError, RecursionError, MemoryError) as error:
            where = f", line {error.lineno}" if getattr(error, "lineno", 0) else ""
            raise ValueError(f"{task.file}{where}: {getattr(error, 'msg', 'too deep')}") from None
    if "/" in task.file:  # a package comes from one place
        package = Path(task.file).parent
        shutil.copytree(ROOT / package, out / package)
    (out / task.file).write_text(source, encoding="utf-8")


def run_tests(folder, arguments):
    """In a process of its own: pytest on the code in a folder, its output thrown away."""
    if hasattr(os, "setsid"):
        os.setsid()  # what it starts can be ended with it
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    for name in [name for name in os.environ if name.startswith("PYTEST")]:
        del os.environ[name]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in [name for name in sys.modules if name.split(".")[0] in OWN]:
        del sys.modules[name]  # to be imported anew, the student's before the repository's
    theirs = {ROOT, ROOT / "course", ROOT / "tests"}
    rest = [p for p in sys.path if Path(p).resolve() not in theirs]
    sys.path = [str(folder), str(ROOT), *rest]
    os.chdir(folder)
    pytest.main(arguments)
    os._exit(0)


def run(folder, arguments):
    """run_tests, for LIMIT seconds at most -> whether it came to an end."""
    process = PROCESSES.Process(target=run_tests, args=(folder, arguments))
    process.start()
    process.join(LIMIT)
    finished = not process.is_alive()
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    return finished


def wanted(lab, number):
    """The names of a task's tests."""
    names = [
        node.name
        for node in ast.parse(read(TESTS / f"test_lab{lab}.py")).body
        if isinstance(node, ast.FunctionDef)
    ]
    return {name for name in names if name.startswith(f"test_{number}_")}


def short(text, most=200):
    """A message in one line."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."


def verdict(report, names):
    """pytest's XML report, and the tests that it must name -> whether all passed, one line."""
    try:
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return False, "the program ended before the tests did (exit?)"
    passed, failed = set(), []
    for case in cases:
        trouble = [case.find(kind) for kind in ("failure", "error", "skipped")]
        trouble = [found for found in trouble if found is not None]
        name = case.get("name", "").split("[")[0]
        if not trouble:
            passed.add(name)
            continue
        message = trouble[0].get("message", "").removeprefix("AssertionError: ")
        lines = (trouble[0].text or "").splitlines()
        if message == "collection failure":
            message = next((x[1:].strip() for x in lines[::-1] if x.startswith("E ")), message)
            failed.append(f"cannot be imported: {message}")
        else:
            failed.append(f"{name}: {message}")
    if failed:
        return False, f"{len(names) - len(names & passed)} of {len(names)} tests fail; {failed[0]}"
    if names - passed:
        return False, "the program ended before the tests did (exit?)"
    return True, f"{len(names)} tests pass"


def mark(lab, number, submission):
    """Whether a task is right, and one line about it."""
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        code, report = place / "code", place / "report.xml"
        try:
            tree(lab, number, submission, code)
        except ValueError as error:
            return False, short(str(error))
        ini = code / "pytest.ini"
        ini.write_text("[pytest]\n")
        arguments = ["-q", "-s", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}"]
        arguments += ["-c", str(ini), f"--confcutdir={TESTS}", "-k", f"test_{number}_"]
        if not run(code, [*arguments, str(TESTS / f"test_lab{lab}.py")]):
            return False, f"not finished after {LIMIT} seconds"
        right, line = verdict(report, wanted(lab, number))
        return right, short(line)


def grade(lab, submission, progress=lambda line: None):
    """-> Gradescope's results: a dict with score, execution_time, output and tests, one a task."""
    start, rows = time.time(), []
    for number, task in enumerate(LABS[lab], 1):
        right, line = mark(lab, number, submission)
        points = task.points if right else 0
        progress(f"{number}  {task.title:42s} {points:3d} / {task.points:2d}   {line}")
        rows.append(
            dict(
                number=str(number),
                name=f"task {number}: {task.title}",
                score=points,
                max_score=task.points,
                status="passed" if right else "failed",
                output=line,
                output_format="text",
            )
        )
    return dict(
        score=sum(row["score"] for row in rows),
        execution_time=round(time.time() - start, 1),
        output=f"Lab {lab}. What is read and marked by a person comes on top: see lab{lab}.md.",
        output_format="text",
        tests=rows,
    )


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--lab", type=int, choices=LABS, required=True, help="which one")
    parser.add_argument("--json", metavar="FILE", help="where Gradescope's results.json goes")
    parser.add_argument("submission", metavar="DIR", help="the files handed in")
    with one_line_errors():
        args = parser.parse_args(argv)
        if not Path(args.submission).is_dir():
            raise ValueError(f"{args.submission} is not a folder")
        results = grade(args.lab, args.submission, lambda line: print(line, flush=True))
        total = sum(row["max_score"] for row in results["tests"])
        print(f"{results['score']} of {total} points, {results['execution_time']} seconds")
        if args.json:
            Path(args.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
