"""The loss on fixed test images, and that a training that is watched can be gone on with."""

from dataclasses import replace

import pytest

from dg.pretraining import engine
from dg.pretraining.held_out_loss import ddpm_loss, edm_loss, vae_loss, watched
from tests.dg.models import test_ddpm, test_vae
from tests.dg.pretraining import test_score
from tests.dg.pretraining.test_score import equal, image_set, stopping_after

WATCHED = {
    "edm": (test_score.trained, test_score.QUICK, edm_loss),
    "ddpm": (test_ddpm.trained, test_ddpm.QUICK, ddpm_loss),
    "vae": (test_vae.trained, test_vae.QUICK, vae_loss),
}


@pytest.mark.parametrize("kind", WATCHED)
def test_a_watched_training_goes_on_from_its_state(kind, tmp_path, monkeypatch):
    trained, settings, loss = WATCHED[kind]
    settings = replace(settings, steps=54)
    observe = watched(loss, settings, image_set(8), "cpu")
    whole, log = trained(settings, observe=observe)
    interrupted = dict(state_path=tmp_path / "run" / "state.pt", observe=observe)
    monkeypatch.setattr(engine, "OBSERVE_STEPS", 50)
    with pytest.raises(KeyboardInterrupt):
        trained(settings, save_seconds=0, progress=stopping_after(52), **interrupted)
    resumed, resumed_log = trained(settings, **interrupted)
    assert equal(resumed, whole)
    assert resumed_log[-1] == log[-1] and log[-1]["test_loss"] > 0
    assert "test_loss" in resumed_log[0]  # of step 50, from the state
