"""The comparison with the code of particle resampling sees what differs."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.original_discriminators import COLUMNS, LEVELS, rows_of
from dg import vp
from dg.checkpoints import load_discriminator
from dg.discriminator import log_ratio
from guided_diffusion import create_classifier


def stand_in(scale):
    """Code of the same names, by this project's own parts, with log ratios times `scale`."""
    narrow = dict(classifier_width=64, classifier_depth=1, channel_mult=(1, 1, 1, 2))

    class Schedule:
        def compute_tau(self, sigma):
            return vp.from_sigma(sigma)[0]

    def grad_log_ratio(discriminator, schedule, x, sigma, size, low, high, labels, log):
        x = x.requires_grad_()
        ratio = scale * log_ratio(discriminator, x, sigma, labels)
        (gradient,) = torch.autograd.grad(ratio.sum(), x)
        return -(sigma**2) * gradient, ratio

    return SimpleNamespace(
        load_classifier=lambda *_: create_classifier(64, out_channels=2, **narrow),
        load_discriminator=lambda *_: create_classifier(8, in_channels=128, out_channels=1),
        get_discriminator=lambda classifier, head, *_: load_discriminator(classifier, head),
        vpsde=Schedule,
        get_grad_log_ratio=grad_log_ratio,
    )


@pytest.mark.parametrize(("scale", "same"), [(1.0, True), (1.1, False)])
def test_a_different_log_ratio_is_seen(tmp_path, scale, same):
    rows = rows_of(stand_in(scale), tmp_path, conditional=False)
    assert len(rows) == len(LEVELS) and all(tuple(row) == COLUMNS for row in rows)
    for _, ratio, gradient, *moved in (row.values() for row in rows):
        assert (ratio < 1e-4 and gradient < 1e-4) == same
        assert moved == [0, 0]
