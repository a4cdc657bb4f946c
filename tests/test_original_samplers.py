"""The comparison with the authors' samplers sees what differs."""

import sys

import torch

import guided_diffusion
from benchmarks.original_samplers import Check, decided, loaded, restart_rows
from dg.samplers.constants import Constants
from tests.dg.test_sampling import Linear, network

CONSTANTS = Constants(19 * [1.0], 19 * [1.0])
SCRIPT = """
import json
from guided_diffusion import SCALE
from dg.samplers.restart import restart_sampler as other

def restart_sampler(*args, restart_info, S_noise, **options):
    return other(*args, restart=json.loads(restart_info), S_noise=SCALE * S_noise, **options)
"""


def test_a_script_finds_its_own_packages_and_restart_is_compared(tmp_path):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "generate_restart.py").write_text(SCRIPT)
    for scale, same in ((1, True), (2, False)):
        (folder / "guided_diffusion.py").write_text(f"SCALE = {scale}\n#{scale * 'x'}")
        rows = restart_rows(tmp_path, network(label_dim=0), range(2))
        assert [row["measured"] == 0 for row in rows[::2]] == 3 * [same]
        assert sys.modules["guided_diffusion"] is guided_diffusion
    assert loaded(folder / "generate_restart.py").SCALE == 2


def test_decisions_are_made_from_the_record():
    """At a bound of 1, and with 35 evaluations still needed from level 0 on."""
    x, noise = torch.ones(2, 4, 4).double(), torch.full((2, 4, 4), 2.0).double()
    checks = [
        Check(0, 5, x, ratio=2.0, last=1.5, stepped=True, used=10, uniform=0.4, noise=noise),
        Check(1, 5, x, ratio=2.0, last=1.5, stepped=True, used=10, uniform=0.9, noise=noise),
        Check(2, 5, x, ratio=2.0, last=1.5, stepped=False, used=10, uniform=0.9, noise=noise),
        Check(3, 5, x, ratio=0.0, last=1.5, stepped=True, used=79, uniform=0.9, noise=noise),
        Check(4, 0, x, ratio=0.0, last=0.0, stepped=False, used=60, uniform=0.9, noise=noise),
    ]
    accepted, over, after, used = decided(Linear(), checks, constants=CONSTANTS)
    assert accepted.tolist() == [True, False, True, False, False]
    assert over.tolist() == [False, False, False, True, False]
    assert used.tolist() == [10, 10, 10, 0, 60]
    assert (after[[0, 2]] == 1).all() and (after[1] > 1).all() and (after[3:] == 2 * 80).all()
