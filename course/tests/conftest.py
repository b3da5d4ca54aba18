"""One thread: the tests' networks are so small that a second one costs more than it brings."""

import torch

torch.set_num_threads(1)
