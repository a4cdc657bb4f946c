"""Guidances describe themselves and add up, whatever a new one overrides."""

import pytest
import torch
from torch import nn

import edm
from edm.guidance import Evaluated, Guidance, GuidanceSum, WrappedGuidance
from tests.edm.test_samplers import GaussianDenoiser

MODEL = GaussianDenoiser(0.3, 0.6)
X = torch.randn(4, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LEVELS = (torch.tensor(2.0, dtype=torch.float64), torch.tensor([0.5, 2.0, 3.0, 1.0]).double())


class TowardsGrey(Guidance):
    """The example of docs/interfaces.md, with a strength."""

    strength = 0.01

    def correction(self, x, sigma, class_labels, step, order):
        return -self.strength * x * (sigma > 1).reshape(-1, 1, 1, 1)


class Halved(Guidance):
    """Knows its correction through the network alone."""

    def denoise(self, net, x, sigma, class_labels, step, order):
        return net(x, sigma, class_labels) / 2


class Counted:
    """A denoiser that counts its evaluations."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, sigma, class_labels=None):
        self.calls += 1
        return MODEL(x, sigma)


@pytest.mark.parametrize("sigma", LEVELS, ids=["one level", "a level each"])
def test_corrections_add_up_at_one_evaluation(sigma):
    net, terms = Counted(), (TowardsGrey(), Halved(), TowardsGrey())
    own, place = MODEL(X, sigma), (X, sigma, None, 0, 1)
    grey = TowardsGrey().correction(*place)
    for guidance, expected in (
        (terms[0] + terms[1] + terms[2], 0.5 * own + 2 * grey),
        (terms[1] + (terms[0] + terms[2]), 0.5 * own + 2 * grey),
        (terms[1] + terms[1], torch.zeros_like(own)),
        (WrappedGuidance(terms[1]) + terms[0], 0.5 * own + grey),
        (Guidance() + Guidance(), own),
    ):
        net.calls = 0
        torch.testing.assert_close(guidance.denoise(net, *place), expected, rtol=1e-12, atol=1e-12)
        assert net.calls == 1
        denoised, correction = guidance.parts(net, *place)
        assert torch.equal(denoised, own)
        correction = torch.zeros_like(own) if correction is None else correction
        torch.testing.assert_close(own + correction, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal((Guidance() + Guidance()).denoise(net, *place), own)


def test_begin_and_churn_are_passed_on_in_the_order_given():
    class Listener(Guidance):
        def __init__(self, name, heard):
            self.name, self._heard = name, heard

        def begin(self, x):
            self._heard.append(self.name)

        def churn(self, S_churn, S_noise, step):
            self._heard.append((self.name, S_churn, step))
            return S_churn * 2 + 1, S_noise

    heard = []
    both = WrappedGuidance(Listener("a", heard) + Listener("b", heard))
    both.begin(X)
    assert both.churn(1.0, 1.0, 5) == (7.0, 1.0)
    assert heard == ["a", "b", ("a", 1.0, 5), ("b", 3.0, 5)]


def test_what_is_needed_of_a_sampler_is_declared():
    class Stepwise(Guidance):
        needs_step = needs_order = True

    for guidance in (Stepwise(), Guidance() + Stepwise(), WrappedGuidance(Stepwise())):
        assert guidance.needs_step and guidance.needs_order and not guidance.uses_network
    for guidance in (Halved(), Guidance() + Halved(), WrappedGuidance(Halved())):
        assert guidance.uses_network and not guidance.needs_step
    assert not TowardsGrey().uses_network
    with pytest.raises(TypeError):
        TowardsGrey() + 1


def test_what_can_be_asked_with_features_is_passed_on_by_wrappers_alone():
    class OfFeatures(Guidance):
        def on_features(self, encoder):
            return (self, encoder)

    guidance, encoder = OfFeatures(), nn.Identity()
    assert WrappedGuidance(guidance).on_features(encoder) == (guidance, encoder)
    for other in (Guidance(), WrappedGuidance(), guidance + guidance):
        assert other.on_features(encoder) is None


def test_a_known_evaluation_serves_the_same_input_alone():
    net, sigma = Counted(), LEVELS[0]
    known = Evaluated(net, MODEL(X, sigma), X, sigma, None)
    assert torch.equal(known(X, sigma), MODEL(X, sigma)) and net.calls == 0
    assert torch.equal(known(2 * X, sigma), MODEL(2 * X, sigma)) and net.calls == 1
    assert known.calls == 1, "what else the network has"


def test_the_description_is_plain_data_of_all_that_images_depend_on():
    class Leading(Guidance):
        def __init__(self, **values):
            self._batch = object()
            self.__dict__.update(values)

    kind = "test_the_description_is_plain_data_of_all_that_images_depend_on.<locals>.Leading"
    name = f"{__name__}.{kind}"
    plain = dict(a=1, b=0.5, c="word", d=None, e=(1, (2.0, True)))
    assert Leading(**plain).describe() == {"class": name} | plain | {"e": [1, [2.0, True]]}
    assert TowardsGrey().describe() == {"class": f"{__name__}.TowardsGrey", "strength": 0.01}
    layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
    changed = torch.ones(2), torch.ones(2, 1), torch.ones(2).double(), torch.zeros(2), *layers
    found = [Leading(part=part).describe()["part"] for part in changed]
    assert len(set(found)) == len(found) and all(len(part) == 16 for part in found)
    assert Leading(part=layers[0]).networks() == [layers[0]]
    assert Leading(part=TowardsGrey()).describe()["part"] == TowardsGrey().describe()
    with pytest.raises(ValueError, match=r"Leading\.part is a object, .* override `describe`"):
        Leading(part=object()).describe()
    both = TowardsGrey() + Leading(part=layers[0])
    assert both.describe() == {"sum": [term.describe() for term in both.terms]}
    assert both.networks() == [layers[0]] and WrappedGuidance(both).describe() == both.describe()


def test_a_sum_guides_a_sampler():
    both = edm.edm_sampler(MODEL, X, guidance=GuidanceSum(TowardsGrey(), TowardsGrey()))
    double = TowardsGrey()
    double.strength = 0.02
    torch.testing.assert_close(both, edm.edm_sampler(MODEL, X, guidance=double))
