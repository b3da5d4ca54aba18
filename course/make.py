"""The student version of a lab, made from the repository as it stands.

    python course/make.py --lab 3 --out ../lab3        one lab
    python course/make.py --all --out ../labs          every lab: ../labs/lab1 ... ../labs/lab8

The bodies and stretches of labs.py become `raise NotImplementedError("lab 3, task 2")`; everything
else stays as it is, comments included. With the code go the weights, the lab's page, its pictures
and its tests, but neither git's history nor the notebook nor the other tests, which hold solutions.
"""

import ast
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from common import Parser, one_line_errors  # noqa: E402
from course.labs import LABS  # noqa: E402

TOP = ["*.py", "README.md", "LICENSE", "requirements.txt", "pyproject.toml", ".gitignore"]
FOLDERS = ["assets", "baselines", "checkpoints", "docs", "evaluation", "tiny_data"]
KINDS = {".py", ".sh", ".md", ".png", ".gif", ".wav", ".pt", ".json", ".jsonl"}
LEFT_OUT = {"docs/notebook.md", "docs/course.md", "baselines/keep_dmd.py"}


# ---------------------------------------------------------------- places in a source text


def find(source, name):
    """The ast node of a top-level function, or of "Class.method". Raises ValueError."""
    nodes = [ast.parse(source)]
    for part in name.split("."):
        inside = [node for parent in nodes for node in parent.body]
        nodes = [node for node in inside if getattr(node, "name", "") == part]
    if len(nodes) != 1:
        raise ValueError(f"{len(nodes)} definitions of {name}: expected one")
    return nodes[0]


def span(source, place):
    """A Place's lines in a source text -> (first, last), from 1, without a function's docstring.
    Raises ValueError unless the place is there exactly once."""
    node, lines = find(source, place.name), source.splitlines()
    if not place.first:
        start = node.body[0].end_lineno + 1 if ast.get_docstring(node) else node.body[0].lineno
        return start, node.end_lineno
    found = []
    for parent in ast.walk(node):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(parent, field, [])
            block = block if isinstance(block, list) else []  # a lambda's or an a if b else c
            begins = [lines[statement.lineno - 1].strip() for statement in block]
            for i, text in enumerate(begins):
                ends = [j for j in range(i, len(block)) if begins[j].startswith(place.last)]
                if text.startswith(place.first) and ends:
                    end = ends[0] if place.last else i
                    found.append((block[i].lineno, block[end].end_lineno))
    if len(found) != 1:
        raise ValueError(f"{place.name}: {place.first!r} ... found {len(found)} times")
    return found[0]


def blank(source, places, text):
    """The source text with each Place replaced by `raise NotImplementedError("text")`."""
    lines = source.splitlines(keepends=True)
    for first, last in sorted((span(source, place) for place in places), reverse=True):
        code = next(line for line in lines[first - 1 : last] if line.strip(" \n")[:1] not in "#")
        indent = code[: len(code) - len(code.lstrip())]
        lines[first - 1 : last] = [f'{indent}raise NotImplementedError("{text}")\n']
    return "".join(lines)


def restore(source, original, places):
    """The source text with the functions of these places, whole, as they are in the original; one
    that is missing is added at the end."""
    for name in dict.fromkeys(place.name for place in places):
        there = find(original, name)
        good = original.splitlines(keepends=True)[there.lineno - 1 : there.end_lineno]
        lines = source.splitlines(keepends=True)
        try:
            here = find(source, name)
            lines[here.lineno - 1 : here.end_lineno] = good
        except ValueError:
            lines += ["\n\n", *good]
        source = "".join(lines)
    return source


# ---------------------------------------------------------------- the student version


def files_of(lab):
    """What a lab's student version holds -> {path in it: path in the repository}."""
    found = [path for pattern in TOP for path in ROOT.glob(pattern)]
    found += [path for name in FOLDERS for path in (ROOT / name).rglob("*") if path.suffix in KINDS]
    files = {path.relative_to(ROOT).as_posix(): path for path in found if path.is_file()}
    files = {name: path for name, path in files.items() if name not in LEFT_OUT}
    here = ROOT / "course"
    pages = here / f"lab{lab}.md", here / "figures.py"
    for path in (*pages, *here.glob(f"pictures/lab{lab}*.png")):
        files[path.relative_to(ROOT).as_posix()] = path
    for name in (f"test_lab{lab}.py", "tiny.py"):
        files[f"tests/{name}"] = here / "tests" / name
    if lab == 8:
        files["project.md"] = here / "project.md"
    return files


def taken(out):
    """Whether there is something at a path that would be lost: anything but an empty folder."""
    return out.exists() and (not out.is_dir() or any(out.iterdir()))


def make(lab, out):
    """Write the student version of a lab to the folder `out`. Raises ValueError if that holds
    anything."""
    out = Path(out)
    if taken(out):
        raise ValueError(f"{out} is there and not empty: name a new folder")
    for name, path in files_of(lab).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / name)
    for number, task in enumerate(LABS[lab], 1):
        if task.places:
            path = out / task.file
            text = blank(read(path), task.places, f"lab {lab}, task {number}")
            path.write_text(text, encoding="utf-8", newline="\n")


def read(path):
    """A source file's text. Raises ValueError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is not UTF-8") from None


def main(argv=None):
    parser = Parser(__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--lab", type=int, choices=LABS, help="which one")
    which.add_argument("--all", action="store_true", help="every lab, in folders lab1 ... of --out")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new or empty folder")
    with one_line_errors():
        args = parser.parse_args(argv)
        for lab in LABS if args.all else [args.lab]:
            out = Path(args.out, f"lab{lab}") if args.all else Path(args.out)
            make(lab, out)
            print(f"lab {lab}: {len(LABS[lab])} tasks -> {out}")


if __name__ == "__main__":
    main()
