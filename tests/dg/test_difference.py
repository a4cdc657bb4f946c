"""The score difference: against the closed form of two Gaussians, on the sampler's own pass, and
from its file."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import edm
from dg.checkpoints import load_difference, load_discriminator, trained_head
from dg.discriminator import ScoreDifference, build_difference, build_discriminator
from dg.experiments.two_gaussians import DATA, MODEL, TRAINING, image_sets
from dg.extractors import ImageExtractor
from dg.guidance import DifferenceGuidance
from dg.losses import denoising_errors, difference
from dg.recipes import DiscriminatorTraining
from dg.samplers.cost import measured_cost
from dg.sampling import Sampling
from dg.training import train_discriminator
from dg.training_data import doubts, split_sets
from dg.training_metrics import evaluate
from tests import golden_fill
from tests.dg import test_guidance as ratios
from tests.dg.test_guidance import latents, relative
from tests.dg.test_losses import gaussian_batch
from tests.dg.test_training import Stop, files, image_set, score_network, stop_after
from tests.edm.test_networks import build

REAL = image_set(80)
SETTINGS = DiscriminatorTraining(
    epochs=3, batch_size=15, lr=1e-2, ema_halflife=64, eval_images=40, loss="difference"
)


class Exact:
    """The difference of the scores of two Gaussians, times a factor; counts its calls."""

    def __init__(self, data, model, factor=1.0):
        self.data, self.model, self.factor, self.calls = data, model, factor, 0

    def __call__(self, x, sigma, class_labels=None):
        self.calls += 1
        variance = torch.as_tensor(sigma).reshape(-1, 1, 1, 1) ** 2
        return self.factor * (self.data(x, sigma) - self.model(x, sigma)) / variance

    def shares_encoder(self, net):
        return False


def exact(weights, **kwargs):
    return DifferenceGuidance(
        Exact(ratios.DATA, ratios.MODEL), weights, **dict(time_min=0.0) | kwargs
    )


# The truth ----------------------------------------------------------------------------------------


def test_the_true_difference_minimises_the_loss_on_real_images():
    """The least is the variance of x_0 given x, which the network alone exceeds by the square of
    the correction."""
    batch = gaussian_batch(20_000).part(slice(0, 20_000))
    values = {
        factor: difference(Exact(DATA, MODEL, factor), batch, 0.0, MODEL)[0].item()
        for factor in (0.0, 0.8, 1.0, 1.2)
    }
    assert min(values, key=values.get) == 1.0, values
    variance = batch.sigma**2
    unit = 0.25 * variance / (0.25 + variance)
    least = DATA.sd**2 * variance / (DATA.sd**2 + variance) / unit
    assert values[1.0] == pytest.approx(least.mean().item(), rel=0.01)
    with_it, without = denoising_errors(Exact(DATA, MODEL), batch, MODEL)
    change = (DATA(batch.x, batch.sigma) - MODEL(batch.x, batch.sigma)).square()
    expected = (change.mean(dim=(1, 2, 3)) / unit).mean().item()
    assert (without - with_it).mean().item() == pytest.approx(expected, rel=0.1)
    assert values[0.0] == pytest.approx(without.mean().item())


class Affine(nn.Module):
    """Gain and shift of every pixel, which depend on the noise level: the form of the truth."""

    num_classes = label_dim = 0

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 32), nn.Linear(32, 1 + 16)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x, sigma, condition=None):
        log = sigma.float().log().reshape(-1, 1)
        inputs = torch.cat([log, (log + 2).square(), (log + 1).tanh()], dim=1)
        gain, shift = self.leave(self.enter(inputs).tanh()).split([1, 16], dim=1)
        return gain[:, :, None, None] * x + shift.reshape(-1, 1, 4, 4)


def test_a_trained_difference_is_the_closed_form():
    torch.manual_seed(0)
    model = ScoreDifference(ImageExtractor(), Affine())
    settings = replace(TRAINING, loss="difference", epochs=4, lr=1e-2, eval_images=500)
    real, _ = image_sets(20_000)
    log = train_discriminator(model, real, None, settings, net=MODEL)
    assert log[-1]["valid_loss"] < log[-1]["valid_network_loss"]
    errors = []
    for sigma in (0.1, 0.2, 0.4, 0.8):
        level = torch.full((500,), sigma, dtype=torch.float64)
        x = DATA.draw(500, 7) + sigma * torch.randn(500, 1, 4, 4, dtype=torch.float64)
        with torch.no_grad():
            truth = Exact(DATA, MODEL)(x, level)
            errors.append(((model(x, level) - truth).norm() / truth.norm()).item())
    assert max(errors) < 0.15, errors


@pytest.mark.parametrize("weights", [(2, 0), (1, 1)])
@pytest.mark.parametrize("how", [{}, dict(time_max=0.8), dict(every=2), dict(S_churn=10)])
def test_sampling_is_that_of_the_gradient_of_the_exact_ratio(weights, how):
    churn = {"S_churn": how["S_churn"]} if "S_churn" in how else {}
    kwargs = {} if churn else how

    def sample(guidance):
        draw = edm.StackedRandomGenerator("cpu", range(16)).randn_like
        return edm.edm_sampler(ratios.MODEL, latents(), randn_like=draw, guidance=guidance, **churn)

    by_gradient = sample(ratios.guidance(weights, **kwargs))
    assert (sample(exact(weights, **kwargs)) - by_gradient).abs().max() < 1e-5
    assert (sample(None) - by_gradient).abs().max() > 0.01


# On the network's own pass ------------------------------------------------------------------------


def filled(net, gain=3.0, **kwargs):
    model = build_difference(net, **kwargs)
    golden_fill.fill(model.heads[0], gain=gain)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("case", ["a_edm_ddpmpp_cond", "a_edm_adm_cond", "a_vp_ddpmpp_uncond"])
def test_one_pass_is_enough_and_an_untrained_head_changes_no_bit(case):
    arrays, config = golden_fill.load(case)
    net = build(config, arrays)
    x, sigma = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["sigma"])
    labels = torch.eye(10)[: len(x)] if net.label_dim else None
    untrained = DifferenceGuidance(build_difference(net, conditional=bool(net.label_dim)))
    steered = DifferenceGuidance(filled(net, conditional=bool(net.label_dim)), (1.5, 0.5))
    assert steered.shares_pass(net)
    for order in (1, 2):
        correction = steered.correction(x, sigma, labels, 0, order)
        assert correction.abs().max() > 0 and correction.shape == x.shape
        assert not correction.requires_grad
        two_passes = net(x, sigma, labels).to(x.dtype) + correction
        assert relative(steered.denoise(net, x, sigma, labels, 0, order), two_passes.numpy()) < 1e-5
    with torch.no_grad():
        plain = edm.edm_sampler(net, x, labels, num_steps=4)
        assert torch.equal(edm.edm_sampler(net, x, labels, guidance=untrained, num_steps=4), plain)
        guided = edm.edm_sampler(net, x, labels, guidance=steered, num_steps=4)
    assert not torch.equal(guided, plain)


def test_it_costs_a_head_and_no_backward_pass():
    net = score_network()
    found = measured_cost(net, Sampling(num_steps=3), DifferenceGuidance(filled(net)))
    assert list(found["evaluations per image"].values()) == [5, 0, 2, 0]
    of = found["of these"]
    plain = measured_cost(net, Sampling(num_steps=3))
    assert of["network"] == plain["multiply-adds per image"]
    assert of["discriminator forward"] > 0 == of["discriminator backward"]


def test_a_divergence_can_be_taken_through_it():
    x, sigma = latents(3), torch.tensor(0.7, dtype=torch.float64)
    found = []
    for steered in (exact((1.5, 0)), ratios.guidance((1.5, 0))):
        leaf = x.clone().requires_grad_()
        found += torch.autograd.grad(steered.correction(leaf, sigma).square().sum(), leaf)
    torch.testing.assert_close(*found)


# Training and files -------------------------------------------------------------------------------


def test_a_stopped_training_goes_on_to_the_same_bytes_and_its_file_guides(tmp_path):
    net, whole, parts = score_network(), tmp_path / "whole", tmp_path / "parts"

    def run(folder, **how):
        model = build_difference(net, REAL, width=8)
        log = train_discriminator(model, REAL, None, SETTINGS, folder, **how)
        return model, log

    trained, log = run(whole)
    with pytest.raises(Stop):
        run(parts, progress=stop_after(5), save_seconds=0)
    run(parts)
    assert files(whole) == files(parts)
    assert log[-1]["step"] == 3 * (64 // 15), "a batch is of real images alone"
    assert log[-1]["train_loss"] < log[0]["train_network_loss"] == log[-1]["train_network_loss"]

    loaded = load_difference(whole / "last.safetensors", net)
    x, sigma = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 1.0, 5.0])
    torch.testing.assert_close(loaded(x, sigma), trained(x, sigma))
    assert loaded(x, sigma).abs().max() > 0 and loaded.shares_encoder(net)
    measured = evaluate(loaded, split_sets(REAL, None, SETTINGS)[1], SETTINGS, net)
    assert measured["loss"] == pytest.approx(log[-1]["valid_loss"], rel=1e-5)
    assert sum(one["n"] for one in measured["levels"]) == 40

    with pytest.raises(ValueError, match="trained on another score network"):
        load_difference(whole / "last.safetensors", score_network("other:"))
    with pytest.raises(ValueError, match="give that network"):
        load_difference(whole / "last.safetensors", None)
    for heads in (trained_head(whole), [trained_head(whole)] * 2):
        with pytest.raises(ValueError, match="has no log ratio; give a discriminator's") as error:
            load_discriminator(None, heads, net)
        assert "\n" not in str(error.value)


def test_classes_reach_the_head():
    real, net = image_set(80, classes=4), score_network(label_dim=4)
    settings = replace(SETTINGS, epochs=1, conditional=True)
    model = build_difference(net, real, conditional=True, width=8)
    train_discriminator(model, real, None, settings)
    x, labels = torch.randn(4, 1, 8, 8), torch.eye(4)
    found = model(x, torch.ones(4), labels)
    assert not torch.equal(found, model(x, torch.ones(4), labels.roll(1)))
    assert torch.equal(found, model(x, torch.ones(4), torch.arange(4)))
    with pytest.raises(ValueError, match="the head is conditional"):
        model(x, torch.ones(4))


def test_what_does_not_go_together_is_refused():
    net = score_network()
    model = build_difference(net, REAL)
    with pytest.raises(ValueError, match="the loss difference takes no generated data"):
        train_discriminator(model, REAL, REAL, SETTINGS)
    with pytest.raises(ValueError, match="the loss bce needs generated data; give them"):
        train_discriminator(model, REAL, None, replace(SETTINGS, loss="bce", batch_size=16))
    with pytest.raises(ValueError, match="trains a ScoreDifference; give one"):
        train_discriminator(build_discriminator("score", REAL, net), REAL, None, SETTINGS)
    with pytest.raises(ValueError, match="trains a Discriminator; give one"):
        train_discriminator(model, REAL, REAL, replace(SETTINGS, loss="bce", batch_size=16))
    with pytest.raises(ValueError, match="are fewer than a batch of 80"):
        train_discriminator(model, REAL, None, replace(SETTINGS, batch_size=80))
    with pytest.raises(ValueError, match="the loss difference trains no LoRA"):
        replace(SETTINGS, lora_rank=2)
    with pytest.raises(ValueError, match="give that network"):
        build_difference(None, REAL)
    with pytest.raises(ValueError, match="the score network makes 8 pixels"):
        build_difference(net, image_set(80, size=16))
    with pytest.raises(ValueError, match="has no log ratio"):
        DifferenceGuidance(model).log_ratio(latents(), torch.ones(()))


def test_doubts_of_real_images_alone(tmp_path):
    assert doubts(REAL, None, tmp_path, None) == []


def test_a_discriminators_file_is_no_difference(tmp_path):
    net = score_network()
    settings = replace(SETTINGS, loss="bce", batch_size=16, epochs=1)
    train_discriminator(build_discriminator("score", REAL, net), REAL, REAL, settings, tmp_path)
    load_discriminator(None, trained_head(tmp_path), net)
    with pytest.raises(ValueError, match="its head is a discriminator's"):
        load_difference(trained_head(tmp_path), net)
