"""One thread for each process: the tests' networks are so small that a second thread costs as much
as it brings. `pytest -n 2` uses the second core. Toy videos are made once and shared."""

import functools
from types import SimpleNamespace

import pytest
import torch
from helpers import prepare

import tiny_data

torch.set_num_threads(1)


@functools.cache
def made_once(make_video, seed):
    return make_video(seed)


class InThisProcess:
    """In a Pool's place: many tests build small sets, all of them of the same first few videos."""

    def __init__(self, **how):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def imap(self, make_video, seeds, chunksize):
        return (made_once(make_video, seed) for seed in seeds)


@pytest.fixture(scope="module", autouse=True)
def pool():
    """The real one makes the set of tests/test_tiny_data.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_data, "multiprocessing", SimpleNamespace(Pool=InThisProcess))
        yield


@pytest.fixture(scope="module")
def teacher_and_student(tmp_path_factory):
    """A folder with an untrained teacher and student; their clips' latents are made once."""
    folder = tmp_path_factory.mktemp("networks")
    prepare(folder, "stage1")
    return prepare(folder, "teacher", videos=1)
