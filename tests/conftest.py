"""One thread for each process: the tests' networks are so small that a second thread costs as much
as it brings. `pytest -n 2` uses the second core."""

import torch

torch.set_num_threads(1)
