"""The diagnosis: every quantity against its closed form on Gaussians, then what is broken, by
name."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

import edm
from dg.calibration import Calibration
from dg.data.latents import LatentSet
from dg.evaluation import reliability
from dg.evaluation.conclusions import window_and_weight
from dg.evaluation.diagnosis import VisitedRatios, calibration, diagnose, sampler_levels
from dg.evaluation.diagnosis_report import diagnosis_text
from dg.evaluation.figures.diagnosis import diagnosis_panels
from dg.guidance import DiscriminatorGuidance
from edm.guidance import WrappedGuidance
from tests.edm.test_samplers import GaussianDenoiser

SIDE, SD, SHIFT = 4, 0.5, 0.15
PIXELS = SIDE**2
SIGN = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(PIXELS // 2).reshape(1, SIDE, SIDE)


class Gaussian(GaussianDenoiser):
    img_resolution = SIDE

    def draw(self, n, seed):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(n, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
        return LatentSet((self.mean + self.sd * noise).float().numpy(), None, f"set {seed}")


DATA, MODEL = Gaussian(0.0 * SIGN, SD), Gaussian(SHIFT * SIGN, SD)
OTHER = Gaussian(SHIFT * SIGN.transpose(1, 2), SD)  # as far from the data, at a right angle
OBLIQUE = Gaussian(0.6 * MODEL.mean + 0.8 * OTHER.mean, SD)  # as far, at a cosine of 0.6
WIDE = Gaussian(0.3 * SIGN, 0.6)


class Ratio:
    """log N(x; data) - log N(x; model), times a factor."""

    def __init__(self, factor=1.0, data=DATA, model=MODEL):
        self.factor, self.data, self.model = factor, data, model

    def __call__(self, x, sigma, class_labels=None):
        def log_density(net):
            variance = (net.sd**2 + sigma**2).reshape(-1, 1, 1, 1)
            return -0.5 * ((x - net.mean) ** 2 / variance + variance.log()).sum(dim=(1, 2, 3))

        return self.factor * (log_density(self.data) - log_density(self.model))

    def shares_encoder(self, net):
        return False


class Memory:
    """The ratio of the densities of a few images by heart, with the noise of the level alone."""

    def __init__(self, real, fake):
        self.sets = [torch.from_numpy(one.latents).double().flatten(1) for one in (real, fake)]

    def __call__(self, x, sigma, class_labels=None):
        def log_density(known):
            distance = (x.flatten(1)[:, None] - known).square().sum(2)
            return torch.logsumexp(-distance / (2 * sigma**2), dim=1)

        return log_density(self.sets[0]) - log_density(self.sets[1])

    shares_encoder = Ratio.shares_encoder


def head_of(found):
    return found["heads"]["head"]


def checked(net=MODEL, head=None, real=DATA, fake=MODEL, n=1500, **kwargs):
    kwargs = dict(num_visited=0, batch_size=500) | kwargs
    sets = real.draw(n, 1), fake.draw(n, 2)
    return head_of(diagnose(net, {"head": head or Ratio()}, *sets, **kwargs))


@pytest.fixture(scope="module")
def exact():
    return checked(n=4000, num_visited=1000)


def near(found, expected, errors=4.0):
    assert abs(found["value"] - expected) < errors * found["se"] + 1e-9, (found, expected)


def normal_mean(function, mean, variance):
    """Mean of a function of a normal variable."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    values = function(mean + math.sqrt(variance) * nodes)
    return float((weights * values).sum() / weights.sum())


def test_the_exact_ratio_has_its_closed_forms_at_every_level(exact):
    """With equal variances v = sd^2 + sigma^2 the log ratio is normal with mean ± d2 / 2 and
    variance d2 = |shift|^2 / v, and the correction is the constant -sigma^2 shift / v."""
    assert len(exact["levels"]) == 10
    for level in exact["levels"]:
        sigma2 = level["sigma"] ** 2
        v = SD**2 + sigma2
        d2, c2 = PIXELS * SHIFT**2 / v, PIXELS * (SHIFT * sigma2 / v) ** 2
        right = 0.5 * math.erfc(-math.sqrt(d2) / 2 / math.sqrt(2))
        near(level["auc"], 0.5 * math.erfc(-math.sqrt(d2 / 2) / math.sqrt(2)))
        near(level["accuracy"], right)
        near(level["loss"], normal_mean(lambda ratio: np.logaddexp(0, -ratio), d2 / 2, d2))
        near(level["mean_log_ratio"]["real"], d2 / 2)
        near(level["mean_log_ratio"]["fake"], -d2 / 2)
        near(level["slope"], 1)
        assert level["ece"]["value"] < 3 * level["ece"]["expected"]
        near(level["correction"], math.sqrt(c2 / (PIXELS * sigma2**2 / v)))
        near(level["error"], PIXELS * SD**2 * sigma2 / v + c2)
        for change in level["change"]:
            w = change["weight"]
            near(change, (w * w - 2 * w) * c2)
        near(level["best_weight"], 1)
        near(level["own"], 0)
        near(level["between"], 1)
        assert level["cosine"]["value"] == pytest.approx(1)


def wide_log_ratio(v, w):
    """(distributions of a distance on real and on generated images, the log ratio as a function of
    it) where the variances are v of the data and w of `WIDE`.

    The log ratio is a quadratic function of the image, so it falls with the squared distance to one
    point, which follows a noncentral chi-squared distribution.
    """
    curvature = 1 / v - 1 / w
    point = -0.3 / w / curvature  # times SIGN
    distances = [
        stats.ncx2(PIXELS, PIXELS * (mean - point) ** 2 / variance, scale=variance)
        for mean, variance in ((0.0, v), (0.3, w))
    ]
    highest = PIXELS / 2 * (curvature * point**2 + 0.09 / w + math.log(w / v))
    return distances, lambda distance: highest - curvature * distance / 2


def test_unequal_variances_have_their_closed_forms_at_every_level():
    """Data N(0, 0.25) and model N(±0.3, 0.36). With variances v and w of the noisy images the
    correction is c = sigma^2 (k x - m / w), k = 1 / w - 1 / v, whose square has means of its own on
    real and on generated images."""
    found = checked(net=WIDE, head=Ratio(model=WIDE), fake=WIDE, n=4000)
    assert found["verdict"] == "guide" and found["findings"] == {}
    near(found["weight"], 1)
    for level in found["levels"]:
        sigma2 = level["sigma"] ** 2
        v, w = 0.25 + sigma2, 0.36 + sigma2
        k = 1 / w - 1 / v
        on_real = PIXELS * sigma2**2 * (k**2 * v + 0.09 / w**2)
        on_fake = PIXELS * sigma2**2 * (k**2 * w + 0.09 / v**2)
        near(level["mean_log_ratio"]["real"], PIXELS / 2 * ((v + 0.09) / w - 1 + math.log(w / v)))
        near(level["mean_log_ratio"]["fake"], -PIXELS / 2 * ((w + 0.09) / v - 1 + math.log(v / w)))
        near(level["slope"], 1)
        near(level["correction"], math.sqrt(on_fake / (PIXELS * sigma2**2 / w)))
        near(level["error"], PIXELS * 0.25 * sigma2 / v + on_real)
        for change in level["change"]:
            near(change, (change["weight"] ** 2 - 2 * change["weight"]) * on_real)
        near(level["best_weight"], 1)
        near(level["own"], 0)
        near(level["between"], 2 * on_real / (on_real + on_fake))
        (real, fake), log_ratio = wide_log_ratio(v, w)
        shares = (np.arange(2000) + 0.5) / 2000
        ratios = [log_ratio(one.ppf(shares)) for one in (real, fake)]
        near(level["auc"], real.cdf(fake.ppf(shares)).mean())
        near(level["accuracy"], (np.mean(ratios[0] > 0) + np.mean(ratios[1] < 0)) / 2)
        losses = np.logaddexp(0, -ratios[0]).mean(), np.logaddexp(0, ratios[1]).mean()
        near(level["loss"], sum(losses) / 2)


class Noted(WrappedGuidance):
    """Notes the states of the first-order stages, by step."""

    def __init__(self, guidance):
        super().__init__(guidance)
        self.states = {}

    def denoise(self, net, x, sigma, class_labels, step, order):
        if order == 1:
            self.states[step] = x
        return super().denoise(net, x, sigma, class_labels, step, order)


def test_visited_states_have_their_closed_form(exact):
    """The guided sampler is affine in its latent z, x = mean + k z, so that the log ratio of its
    states is normal as well."""
    noted = Noted(DiscriminatorGuidance(Ratio(), (2, 0)))
    latents = torch.stack([torch.zeros(1, SIDE, SIDE), torch.ones(1, SIDE, SIDE)]).double()
    edm.edm_sampler(MODEL, latents, guidance=noted)
    for level in exact["levels"]:
        start, one = noted.states[level["step"]]
        sigma, v = torch.tensor(level["sigma"]), SD**2 + level["sigma"] ** 2
        mean, k = float(Ratio()(start[None], sigma)), float((one - start).mean())
        variance, d2 = PIXELS * (SHIFT * k / v) ** 2, PIXELS * SHIFT**2 / v
        visited = level["visited"]
        near(visited["mean_log_ratio"], mean)
        near(visited["gap"], mean + d2 / 2)
        apart = (d2 / 2 - mean) / math.sqrt(d2 + variance)
        near(visited["auc"], 0.5 * math.erfc(-apart / math.sqrt(2)))


def test_log_ratios_of_visited_states_are_kept_as_the_guidance_finds_them():
    """With the exact ratio at both stages they are those of the data's own sampler."""
    kept, noted = VisitedRatios(DiscriminatorGuidance(Ratio(), (1, 1))), Noted(None)
    latents = torch.randn(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).double()
    edm.edm_sampler(MODEL, latents, guidance=kept)
    edm.edm_sampler(DATA, latents, guidance=noted)
    for level in sampler_levels(MODEL, 15)[:-1]:  # below the window the sampler is the model's
        expected = Ratio()(noted.states[level.step], torch.tensor(level.sigma))
        torch.testing.assert_close(kept.log_ratios[level.step][0], expected)


def test_the_exact_ratio_gets_its_window_and_weight(exact):
    assert exact["verdict"] == "guide" and exact["findings"] == {}
    near(exact["weight"], 1)
    assert exact["window"][0] < 0.3 and exact["window"][1] > 0.5
    levels = sampler_levels(MODEL)
    inside = [one for one in levels if exact["sigmas"][0] <= one.sigma <= exact["sigmas"][1]]
    gain = sum(
        one.weight * PIXELS * (SHIFT * one.sigma**2 / (SD**2 + one.sigma**2)) ** 2 for one in inside
    )
    near(exact["gain"], gain)
    everywhere = sum(
        one.weight * PIXELS * (SHIFT * one.sigma**2 / (SD**2 + one.sigma**2)) ** 2 for one in levels
    )
    near(exact["gain_at_weight_1"], everywhere)
    near(exact["gain_between"], everywhere)


def test_levels_are_the_samplers_own_inside_the_window():
    levels = sampler_levels(MODEL, 15)
    assert [one.step for one in levels] == list(range(15))
    assert levels[0].sigma == 80 and levels[0].above == 1 and levels[-1].below == 0.01
    assert all(one.below < one.time <= one.above for one in levels)
    assert sum(one.weight * one.sigma**2 for one in levels) == pytest.approx(
        math.log(80 / levels[-1].sigma), rel=0.1
    )
    assert len(sampler_levels(MODEL, 10)) == 10
    with pytest.raises(ValueError, match="at least 2"):
        sampler_levels(MODEL, 1)


@pytest.mark.parametrize(
    ("factor", "told", "remedy"),
    [
        (3.0, "3.1 times too large (slope 0.33)", "or divide the weight"),
        (1 / 3, "2.9 times too small (slope 2.88)", "or multiply the weight"),
    ],
)
def test_a_head_that_is_three_times_too_sure_or_too_unsure_is_named(factor, told, remedy):
    """It gets the inverse of the factor as weight, and its calibration error is the mean distance
    of its probability from the true one."""
    found = checked(head=Ratio(factor), n=3000)
    assert list(found["findings"]) == ["miscalibrated"]
    assert told in found["findings"]["miscalibrated"]
    assert remedy in found["findings"]["miscalibrated"]
    assert found["verdict"] == "guide"
    near(found["weight"], 1 / factor)
    for level in found["levels"][4:]:  # above, the logits are too small to tell
        near(level["slope"], 1 / factor)
        d2 = PIXELS * SHIFT**2 / (SD**2 + level["sigma"] ** 2)

        def off(ratio):
            return np.abs(1 / (1 + np.exp(-factor * ratio)) - 1 / (1 + np.exp(-ratio)))

        expected = (normal_mean(off, d2 / 2, d2) + normal_mean(off, -d2 / 2, d2)) / 2
        near(level["ece"], expected)


def test_calibration_mends_a_head_that_is_three_times_too_sure():
    found = checked(head=Ratio(3.0), n=3000)
    fitted = Calibration(*calibration(found))

    class Calibrated(Ratio):
        def __call__(self, x, sigma, class_labels=None):
            return super().__call__(x, sigma) / fitted.temperature(sigma)

    mended = checked(head=Calibrated(3.0), n=3000, seed=1)
    assert mended["findings"] == {}
    near(mended["weight"], 1)


def test_exchanged_images_are_named():
    found = checked(real=MODEL, fake=DATA)
    assert list(found["findings"]) == ["wrong sign"] and found["verdict"] == "do not guide"
    trained = checked(head=Ratio(-1.0))
    assert list(trained["findings"]) == ["wrong sign"] and trained["verdict"] == "do not guide"
    with pytest.raises(ValueError, match="wrong sign"):
        calibration(trained)


def test_images_of_another_network_are_named():
    found = checked(head=Ratio(model=OTHER), fake=OTHER)
    assert "come from another network" in found["findings"]["wrong network"]
    assert found["verdict"] == "measure guided images" and found["window"] is None
    for level in found["levels"]:
        near(level["own"], -1)
        near(level["best_weight"], 0)
        near(level["between"], 1)


def test_a_head_that_was_trained_against_another_network_is_named():
    found = checked(head=Ratio(model=OTHER))
    assert "trained against images of another network" in found["findings"]["ignorant"]
    assert found["verdict"] == "do not guide"


def test_a_difference_that_arises_while_sampling_is_told_from_one_of_the_network():
    """The network is right; only the generated images are not as it says."""
    found = checked(net=DATA, n=3000)
    assert found["verdict"] == "measure guided images" and found["window"] is None
    near(found["gain_at_weight_1"], -found["gain_between"]["value"])
    assert found["gain_between"]["value"] > 0
    for level in found["levels"]:
        near(level["best_weight"], 0)
        near(level["own"], -1)
        near(level["between"], 1)
    half = Gaussian(SHIFT / 3 * SIGN, SD)  # a third of the shift is the network's
    found = checked(net=half, n=3000)
    assert found["verdict"] == "measure guided images" and found["weight"] is not None
    near(found["weight"], 1 / 3)


def test_an_overfitted_head_is_named():
    training = DATA.draw(40, 3), DATA.draw(40, 4)
    sets = DATA.draw(600, 1), DATA.draw(600, 2)
    head = {"head": Memory(*training)}
    found = head_of(diagnose(DATA, head, *sets, training, num_visited=0))
    assert found["verdict"] == "train on more images"
    assert found["levels"][-1]["train_auc"]["value"] > 0.99
    near(found["levels"][-1]["auc"], 0.5)
    assert "by heart" in found["findings"]["overfitted"]


def test_too_few_images_are_named():
    barely = Gaussian(0.01 * SIGN, SD)
    found = checked(net=barely, head=Ratio(model=barely), fake=barely, n=20)
    assert found["verdict"] == "measure more images"
    assert list(found["findings"]) == ["too few images"]


def test_a_head_that_learned_nothing_is_not_to_guide():
    found = checked(head=Ratio(0.0), n=1500)
    assert found["verdict"] == "do not guide" and found["findings"] == {}
    assert found["window"] is None and found["weight"] is None


def test_heads_are_compared_on_the_same_noise():
    sets, heads = (DATA.draw(50, 1), MODEL.draw(50, 2)), {"a": Ratio(), "b": Ratio(2.0)}
    heads |= {"c": Ratio(model=OTHER), "d": Ratio(model=OBLIQUE)}
    found = diagnose(MODEL, heads, *sets, num_visited=8)["heads"]
    for a, b, c, d in zip(*(found[name]["levels"] for name in heads), strict=True):
        assert b["cosine"]["value"] == pytest.approx(1)
        assert c["cosine"]["value"] == pytest.approx(0, abs=1e-9)
        assert d["cosine"]["value"] == pytest.approx(0.6)
        assert b["error"] == a["error"]
        assert b["best_weight"]["value"] == pytest.approx(a["best_weight"]["value"] / 2)


def test_a_window_ends_where_the_error_rises():
    along = np.random.default_rng(0).normal(0, 0.1, (400, 5)) + [-1, 1, 1, 0.2, 1]
    size = np.tile([1.0, 1, 1, 4, 1], (400, 1))
    window, weight = window_and_weight(along, size, np.ones(5))
    assert window.tolist() == [1, 2] and weight == pytest.approx(1, abs=0.02)
    assert window_and_weight(-along[:, [1, 2]], size[:, :2], np.ones(2)) == (None, None)


def test_slope_stays_finite_where_logits_separate_and_near_1_where_they_say_nothing():
    apart = reliability.calibration_slope(np.full(100, 5.0), np.full(100, -5.0))
    assert 1 < apart["value"] < 4
    assert reliability.calibration_slope(np.zeros(9), np.zeros(9))["value"] == pytest.approx(1)


def test_a_histogram_counts_the_logits_of_both_kinds():
    real, fake = np.linspace(-1, 3, 1000), np.linspace(-3, 1, 500)
    found = reliability.histogram(real, fake)
    edges = np.array(found["edges"])
    assert len(edges) == 36 and np.diff(edges) == pytest.approx(np.diff(edges)[0])
    for logits, kind in ((real, "real"), (fake, "fake")):
        inside = [((logits >= a) & (logits < b)).sum() for a, b in itertools.pairwise(edges)]
        assert found[kind][:-1] == inside[:-1]
    assert sum(found["real"]) + sum(found["fake"]) == 1500 - 16  # half a percent at either end
    assert reliability.histogram(np.zeros(9), np.zeros(9))["real"] == [9] + [0] * 34


def test_log_ratios_are_counted_at_every_level():
    sets = DATA.draw(300, 1), MODEL.draw(300, 2)
    levels = diagnose(MODEL, {"head": Ratio()}, *sets, num_visited=0)["heads"]["head"]["levels"]
    for one in levels:
        edges, count = np.array(one["histogram"]["edges"]), one["histogram"]
        middle = (edges[1:] + edges[:-1]) / 2
        for kind in ("real", "fake"):
            mean = (middle * count[kind]).sum() / sum(count[kind])
            assert mean == pytest.approx(one["mean_log_ratio"][kind]["value"], abs=0.1)


def test_calibration_error_of_a_constant_answer():
    """Half of the images are real, whatever their order: an answer of one half is calibrated."""
    for answer in (0.0, 3.0):
        found = reliability.calibration_error(np.full(100, answer), np.full(100, answer))
        assert found["value"] == pytest.approx(1 / (1 + math.exp(-answer)) - 0.5, abs=1e-12)


@pytest.mark.parametrize(("factor", "error"), [(1, 0), (3, 27 / 28 - 3 / 4), (-1, 1 / 2)])
def test_calibration_error_of_a_known_miscalibration(factor, error):
    """Three of four images are on the right side, so the calibrated logits are ± ln 3."""
    real = factor * math.log(3) * np.repeat([1.0, -1.0], [75, 25])
    found = reliability.calibration_error(real, -real)
    assert found["value"] == pytest.approx(error, abs=1e-12)


def test_unequal_sets_give_equal_numbers():
    found = diagnose(MODEL, {"head": Ratio()}, DATA.draw(40, 1), MODEL.draw(30, 2), num_visited=0)
    assert found["images"] == {"real": 30, "fake": 30}


@pytest.mark.parametrize(
    ("real", "match"),
    [
        (SimpleNamespace(name="x", resolution=8, channels=1, what="images"), "network's size"),
        (DATA.draw(5, 1), "too few"),
    ],
)
def test_sets_that_do_not_fit_are_refused(real, match):
    with pytest.raises(ValueError, match=match):
        diagnose(MODEL, {"head": Ratio()}, real, MODEL.draw(20, 2))


def test_text_and_picture_name_verdict_window_and_weight(tmp_path):
    sets = DATA.draw(400, 1), MODEL.draw(400, 2)
    found = diagnose(MODEL, {"one": Ratio(), "two": Ratio(3.0)}, *sets, sets, num_visited=8)
    text = diagnosis_text(found)
    for word in (
        "verdict: guide",
        "suggested: VP times",
        "search larger weights",
        "training AUC",
        "visited",
        "largest",
    ):
        assert word in text
    assert "\ntwo\n" in text and "3 real" not in text
    diagnosis_panels(tmp_path / "diagnosis.png", found["heads"])
    assert (tmp_path / "diagnosis.png").stat().st_size > 10_000


def test_temperatures_are_interpolated_and_constant_beyond_the_ends():
    fitted = Calibration((0.1, 0.5), (2.0, 4.0))
    sigma = torch.tensor([0.001, 0.5, 100.0], dtype=torch.float64)
    low, middle, high = fitted.temperature(sigma).tolist()
    assert (low, high) == (2.0, 4.0) and 2 < middle < 4
    assert fitted.temperature(sigma[1]).ndim == 0


@pytest.mark.parametrize(
    ("times", "temperatures"),
    [((0.1,), (1.0,)), ((0.1, 0.1), (1, 1)), ((0.1, 0.2), (1, -1)), ((0.1, 0.2), (1, math.nan))],
)
def test_a_calibration_that_is_none_is_refused(times, temperatures):
    with pytest.raises(ValueError, match="ascending times"):
        Calibration(times, temperatures)
