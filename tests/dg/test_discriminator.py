"""Discriminators: extractors against closed forms, heads on disk, and what may not be put
together."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import edm
from dg import vp
from dg.adapters import cond_fn
from dg.checkpoints import load_discriminator, save_head
from dg.data.datasets import ImageSet
from dg.data.latents import LatentSet
from dg.discriminator import Discriminator, build_discriminator
from dg.extractors import ClassifierExtractor, PixelExtractor, ScoreExtractor
from dg.fingerprints import fingerprint
from dg.guidance import DiscriminatorGuidance
from dg.heads import ScoreHead
from edm.checkpoint import read_safetensors, write_safetensors
from guided_diffusion import create_classifier
from tests import golden_fill

DATA = ImageSet(np.zeros([4, 8, 8, 3], np.uint8), np.array([0, 1, 2, 2]), "data")
KINDS = ("score", "finetuned", "classifier", "none")


def network(salt="", **changes):
    kwargs = dict(
        img_resolution=8,
        img_channels=3,
        label_dim=3,
        model_type="SongUNet",
        model_channels=8,
        num_blocks=1,
        channel_mult=[1, 2],
        attn_resolutions=[],
        dropout=0.5,
    )
    return golden_fill.fill(edm.EDMPrecond(**kwargs | changes), salt)


def classifier(salt="", image_size=8, channel_mult=(1,)):
    return golden_fill.fill(
        create_classifier(
            image_size,
            classifier_width=64,
            classifier_depth=1,
            out_channels=3,
            channel_mult=channel_mult,
        ),
        salt,
    )


@pytest.fixture
def files(tmp_path):
    """What a discriminator may stand on: keyword arguments of load_discriminator, and those of
    build_discriminator."""
    torch.save(classifier().state_dict(), tmp_path / "classifier.pt")
    return dict(net=network(), classifier_path=tmp_path / "classifier.pt")


def built(kind, files, seed=0, conditional=False):
    """A discriminator that tells something apart: an untrained one answers 0."""
    discriminator = build_discriminator(
        kind, DATA, **files, conditional=conditional, seed=seed, width=64
    )
    golden_fill.fill(discriminator.heads[0], f"{seed}:")
    return discriminator


def saved(path, kind, files, **kwargs):
    discriminator = built(kind, files, **kwargs)
    save_head(path, discriminator.heads[0], discriminator.extractor, {"epochs": 3})
    return discriminator


def noisy(n=3, channels=3, resolution=8):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, channels, resolution, resolution, generator=generator)
    return x, torch.linspace(0.2, 5, n), torch.eye(3)[torch.arange(n) % 3]


# Extractors.


def test_pixels_are_seen_at_vp_scale_and_time():
    x, _, _ = noisy(4)
    sigma = torch.tensor([0.002, 0.5, 3.0, 80.0], dtype=torch.float64)
    features, tau = PixelExtractor()(x, sigma)
    scale = 1 / (1 + sigma**2).sqrt()
    torch.testing.assert_close(features, (scale.reshape(-1, 1, 1, 1) * x).float())
    # the definition of the time
    torch.testing.assert_close(vp.integral_beta(tau), (1 + sigma**2).log())
    one, time = PixelExtractor()(x, sigma[1])
    assert time.shape == () and torch.equal(one[1], features[1]) and features.dtype == torch.float32


def test_heads_on_given_features_are_the_same_discriminator(files):
    discriminator = built("classifier", files, conditional=True)
    x, sigma, labels = noisy()
    features, _ = discriminator.extractor(x, sigma.double())
    scale = (1 + sigma.double() ** 2).rsqrt().reshape(-1, 1, 1, 1)
    found = discriminator.on_features()(features.double() / scale, sigma.double(), labels)
    torch.testing.assert_close(found, discriminator(x, sigma.double(), labels))
    encoder = discriminator.extractor.encoder
    assert discriminator.shares_encoder(encoder) and discriminator.shares_encoder(classifier())
    encoder.time_embed[0].bias += 1e-3
    assert not discriminator.shares_encoder(classifier())
    assert not built("none", {}).shares_encoder(encoder)


class Listener(nn.Module):
    """An encoder that keeps what it is called with."""

    def forward(self, x, timesteps, feature=False, condition=None):
        self.called = x, timesteps, feature
        return x


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_classifier_is_asked_at_its_own_time(schedule):
    x, sigma, _ = noisy(5)
    extractor = ClassifierExtractor(Listener(), schedule)
    sigma = sigma.double()
    features, time = extractor(x, sigma)
    seen, called_at, feature = extractor.encoder.called
    assert feature is True and torch.equal(called_at, time) and features is seen
    torch.testing.assert_close(seen, (x / (1 + sigma**2).sqrt().reshape(-1, 1, 1, 1)).float())
    if schedule == "linear":
        signal = (-vp.integral_beta(time)).exp()
    else:  # Nichol & Dhariwal 2021, Eq. 17
        angle = torch.cos((time + 0.008) / 1.008 * math.pi / 2)
        signal = (angle / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    torch.testing.assert_close(signal, 1 / (1 + sigma**2))  # the same share of signal
    with pytest.raises(ValueError, match="linear or cosine"):
        ClassifierExtractor(Listener(), "quadratic")


def test_a_classifier_of_64_pixels_is_on_the_cosine_schedule_unless_the_head_says_otherwise(
    tmp_path,
):
    torch.save(
        classifier(image_size=64, channel_mult=(1, 1, 1, 1)).state_dict(), tmp_path / "64.pt"
    )
    torch.save(classifier().state_dict(), tmp_path / "8.pt")
    head = create_classifier(
        image_size=8, in_channels=64, out_channels=1, classifier_width=64, classifier_depth=1
    )
    torch.save(head.state_dict(), tmp_path / "authors.pt")
    for name, schedule in (("64.pt", "cosine"), ("8.pt", "linear")):
        assert (
            load_discriminator(tmp_path / name, tmp_path / "authors.pt").extractor.schedule
            == schedule
        )
    extractor = load_discriminator(tmp_path / "64.pt", tmp_path / "authors.pt").extractor
    extractor.schedule = "linear"
    save_head(tmp_path / "own.safetensors", head, extractor)
    assert (
        load_discriminator(tmp_path / "64.pt", tmp_path / "own.safetensors").extractor.schedule
        == "linear"
    )


def test_score_features_are_all_stages_averaged_to_the_bottleneck():
    net = network().eval()
    x, sigma, labels = noisy(2)
    extractor = ScoreExtractor(net)
    features, emb = extractor(x, sigma, labels)
    skips = net.encode(x, sigma, labels).skips
    assert features.shape == (2, sum(h.shape[1] for h in skips), 4, 4) and extractor.dims() == (
        features.shape[1],
        32,
    )
    expected = [
        h if h.shape[-1] == 4 else h.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean(dim=(3, 5))
        for h in skips
    ]
    torch.testing.assert_close(features, torch.cat(expected, dim=1))
    assert torch.equal(emb, net.encode(x, sigma, labels).emb)


def test_score_features_of_a_shared_pass_are_the_same():
    discriminator = built("score", dict(net=network()))
    x, sigma, labels = noisy()
    net = discriminator.extractor.net
    assert torch.equal(
        discriminator.from_encoding(net.encode(x, sigma, labels), labels),
        discriminator(x, sigma, labels),
    )
    assert discriminator.shares_encoder(net) and not discriminator.shares_encoder(network())
    assert not built("none", {}).shares_encoder(net)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_image_and_no_frozen_weight(kind, files):
    discriminator = built(kind, files)
    x, sigma, labels = noisy()
    x.requires_grad_()
    discriminator(x, sigma, labels).sum().backward()
    assert (x.grad.abs().amax(dim=(1, 2, 3)) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in discriminator.extractor.parameters())
    assert any(p.grad is not None for p in discriminator.heads.parameters()), (
        "a head can be trained"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_extractors_do_not_drop_out(kind, files):
    discriminator = built(kind, files)
    arguments = noisy()
    assert torch.equal(discriminator(*arguments), discriminator(*arguments))


# Heads.


def test_an_untrained_head_on_a_score_network_guides_nowhere():
    discriminator = build_discriminator("score", DATA, net=network(), conditional=True)
    x, sigma, labels = noisy()
    assert (discriminator(x, sigma, labels) == 0).all()
    correction = DiscriminatorGuidance(discriminator, (2.0, 0.0), 0.0).correction(x, sigma, labels)
    assert (correction == 0).all()
    assert any(
        parameter.abs().max() > 0 for parameter in discriminator.heads[0].blocks.parameters()
    )


def unets():
    """A network of either kind; the second one runs in half precision on GPUs."""
    small = dict(model_channels=32, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[4])
    adm = edm.EDMPrecond(8, 3, 3, True, model_type="DhariwalUNet", dropout=0.5, **small)
    return network(), golden_fill.fill(adm)


@pytest.mark.parametrize("net", unets(), ids=["SongUNet", "DhariwalUNet"])
def test_a_fine_tuned_discriminator_starts_as_the_one_on_the_frozen_encoder(net, tmp_path):
    arguments, before = noisy(), fingerprint(net)
    tuned, frozen = (
        build_discriminator(kind, DATA, net, conditional=True) for kind in ("finetuned", "score")
    )
    head = tuned.heads[0]
    for found, expected in zip(head.encoder(*arguments), frozen.extractor(*arguments), strict=True):
        assert torch.equal(found, expected)
    assert (tuned(*arguments) == 0).all(), "it guides nowhere"
    for one in (frozen.heads[0], head.head):
        golden_fill.fill(one, "same:")
    assert torch.equal(tuned(*arguments), frozen(*arguments)) and tuned(*arguments).abs().min() > 0
    own = net.state_dict()
    for name, weights in head.encoder.net.state_dict().items():
        assert torch.equal(weights, own[name])
    assert not any(".dec." in name or "out_conv" in name for name in head.state_dict())
    assert not head.encoder.net.use_fp16, "its gradients need float32"

    head.requires_grad_(True).train()
    tuned(*arguments).sum().backward()
    trained = {name for name, p in head.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"encoder.net.model.enc.8x8_conv.weight", "head.logit.weight"} <= trained
    with torch.no_grad():
        head.encoder.net.model.enc["8x8_conv"].weight.mul_(1.1)
    assert fingerprint(net) == before and not any(p.requires_grad for p in net.parameters())

    save_head(tmp_path / "head.safetensors", head, tuned.extractor)
    loaded = load_discriminator(None, tmp_path / "head.safetensors")
    assert torch.equal(loaded(*arguments), tuned.eval()(*arguments))
    assert not torch.equal(loaded(*arguments), frozen(*arguments))
    assert loaded.describe()["heads"] == [fingerprint(head)] and not loaded.shares_encoder(net)
    assert loaded.heads[0].config["origin"] == before


def test_a_fine_tuned_head_is_kept_to_its_extractor(tmp_path, files):
    path = tmp_path / "head.safetensors"
    head = saved(path, "finetuned", files).heads[0]
    save_head(path, head, PixelExtractor())
    refused("FinetunedHead does not go with the extractor none", path)
    config = {"head": "FinetunedHead", "extractor": "finetuned", "head_kwargs": {}}
    write_safetensors(path, head.state_dict(), "discriminator-head", config)
    refused("FinetunedHead does not take these arguments", path)
    config["head_kwargs"] = head.config | {"network": {"class_name": "None", "init_kwargs": {}}}
    write_safetensors(path, head.state_dict(), "discriminator-head", config)
    refused("FinetunedHead does not take these arguments", path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_conditional_head_uses_the_label_and_another_does_not(kind, files):
    # so that the label reaches the logit through the head alone
    files["net"] = network(label_dim=0)
    x, sigma, labels = noisy()
    other = labels.roll(1, dims=1)
    for conditional in (True, False):
        discriminator = built(kind, files, conditional=conditional)
        assert discriminator.conditional == conditional
        logits = discriminator(x, sigma, labels)
        head, seen = discriminator.heads[0], discriminator.extractor(x, sigma)
        assert torch.equal(logits, head(*seen, condition=labels).flatten()) and logits.shape == (3,)
        assert torch.equal(logits, discriminator(x, sigma, other)) != conditional
        torch.testing.assert_close(logits[1:2], discriminator(x[1:2], sigma[1], labels[1:2]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_conditional_head_asks_for_labels(kind, files):
    files["net"] = network(label_dim=0)
    x, sigma, _ = noisy()
    with pytest.raises(ValueError, match="conditional"):
        built(kind, files, conditional=True)(x, sigma, None)


@pytest.mark.parametrize("kind", KINDS)
def test_initial_weights_depend_on_the_seed_alone(kind, files):
    def prints(seed):
        return fingerprint(build_discriminator(kind, DATA, **files, seed=seed, width=64).heads[0])

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = prints(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert prints(5) == first != prints(6)


def test_what_a_head_cannot_be_built_on_is_refused(files):
    for kind, kwargs, words in (
        ("inception", files, "score, finetuned, classifier or none"),
        ("finetuned", {}, "give that network"),
        ("score", {}, "give that network"),
        ("classifier", {}, "give its file"),
        ("score", dict(net=network(img_channels=1)), "8 pixels and 1 channels"),
        ("score", dict(net=network(img_resolution=16)), "16 pixels and 3 channels"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            build_discriminator(kind, DATA, **kwargs)
        assert len(str(caught.value).splitlines()) == 1


# Files.


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_head_comes_back_as_it_was_saved(tmp_path, kind, conditional, files):
    path = tmp_path / "head.safetensors"
    discriminator = saved(path, kind, files, conditional=conditional)
    loaded = load_discriminator(head_path=path, **files)
    arguments = noisy()
    assert (
        torch.equal(loaded(*arguments), discriminator(*arguments))
        and loaded(*arguments).abs().max() > 0
    )
    assert loaded.conditional == conditional and loaded.extractor.kind == kind
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert read_safetensors(path, "discriminator-head")[0]["training"] == {"epochs": 3}


def test_a_bare_state_dict_of_the_authors_is_read(tmp_path, files):
    for kind in ("classifier", "none"):
        discriminator = built(kind, files)
        torch.save(discriminator.heads[0].state_dict(), tmp_path / "discriminator_60.pt")
        loaded = load_discriminator(files["classifier_path"], tmp_path / "discriminator_60.pt")
        assert loaded.extractor.kind == kind and torch.equal(
            loaded(*noisy()), discriminator(*noisy())
        )


def test_loading_leaves_the_global_random_numbers_alone(tmp_path, files):
    for kind in KINDS:
        saved(tmp_path / kind, kind, files)
        before = torch.get_rng_state()
        load_discriminator(head_path=tmp_path / kind, **files)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def heads(tmp_path, files):
    """A saved head of every kind, and a second one on the score network."""
    paths = {kind: tmp_path / f"{kind}.safetensors" for kind in (*KINDS, "second")}
    for kind, path in paths.items():
        saved(path, "score" if kind == "second" else kind, files, seed=int(kind == "second"))
    return paths


def test_an_ensemble_averages_the_logits_of_its_members(heads, files):
    paths = [heads["score"], heads["second"]]
    arguments = noisy()
    first, second = (load_discriminator(None, path, files["net"])(*arguments) for path in paths)
    assert (first - second).abs().min() > 0
    torch.testing.assert_close(
        load_discriminator(None, paths, files["net"])(*arguments), (first + second) / 2
    )
    weighted = load_discriminator(None, paths, files["net"], weights=[3, 1])
    torch.testing.assert_close(weighted(*arguments), 0.75 * first + 0.25 * second)
    torch.testing.assert_close(weighted.weights, torch.tensor([0.75, 0.25]))
    members = weighted.member_logits(*weighted.extractor(*arguments), arguments[2])
    torch.testing.assert_close(members, torch.stack([first, second]))
    assert torch.equal(load_discriminator(None, (paths[0],), files["net"])(*arguments), first)


def test_the_correction_by_a_sum_is_the_sum_of_the_corrections(heads, files):
    paths, (x, sigma, labels) = [heads["score"], heads["second"]], noisy()

    def correction(path, weight, **how):
        discriminator = load_discriminator(None, path, files["net"], **how)
        guidance = DiscriminatorGuidance(discriminator, (weight, 0.0), 0.0)
        return guidance.correction(x, sigma, labels)

    first, second = (correction(path, 2.0) for path in paths)
    assert min(first.abs().max(), second.abs().max()) > 0
    torch.testing.assert_close(correction(paths, 2.0, average="sum"), first + second)
    weighted = correction(paths, 2.0, average="sum", weights=[1, 0.5])
    torch.testing.assert_close(weighted, first + second / 2)
    with pytest.raises(ValueError, match="use logits, probabilities, sum, mistaken"):
        load_discriminator(None, paths, files["net"], average="product")


@pytest.mark.parametrize(
    "weights", [[1], [1, 2, 3], [0, 0], [-1, 0.5], [math.nan, 1], [math.inf, 1]]
)
def test_weights_that_make_no_average_are_refused(heads, files, weights):
    with pytest.raises(ValueError, match=f"{len(weights)} ensemble weights for 2 heads"):
        load_discriminator(None, [heads["score"], heads["second"]], files["net"], weights)
    with pytest.raises(ValueError, match="0 ensemble weights for 0 heads"):
        Discriminator(PixelExtractor(), [])


def refused(words, head_path, **files):
    """Loading fails with one line that begins with the head's file and holds the words."""
    with pytest.raises(ValueError) as caught:
        load_discriminator(head_path=head_path, **files)
    message = str(caught.value)
    first = head_path[0] if isinstance(head_path, list) else head_path
    assert (
        message.startswith(f"{first}: ") and words in message and len(message.splitlines()) == 1
    ), message


def test_a_head_is_kept_to_what_it_was_trained_on(heads, files, tmp_path):
    torch.save(classifier("another:").state_dict(), tmp_path / "another.pt")
    refused("trained on another score network", heads["score"], net=network("another:"))
    refused(
        "trained on another classifier",
        heads["classifier"],
        classifier_path=tmp_path / "another.pt",
    )
    refused("give that network", heads["score"], classifier_path=files["classifier_path"])
    refused("give that classifier", heads["classifier"], net=files["net"])
    one_weight = network()
    with torch.no_grad():
        next(one_weight.parameters()).view(-1)[0] += 1e-6
    refused("trained on another score network", heads["score"], net=one_weight)
    assert load_discriminator(None, heads["score"], network()).extractor.kind == "score", (
        "equal weights will do"
    )


def test_members_on_different_extractors_are_averaged_like_others(heads, files):
    names, (x, sigma, labels) = ("score", "classifier", "second"), noisy()
    arguments, paths = (x, sigma, labels), [heads[name] for name in names]
    alone = torch.stack([load_discriminator(head_path=one, **files)(*arguments) for one in paths])
    for how, expected in {
        (): alone.mean(dim=0),
        (("weights", (3.0, 2.0, 1.0)),): (3 * alone[0] + 2 * alone[1] + alone[2]) / 6,
        (("weights", (3.0, 2.0, 1.0)), ("average", "sum")): 3 * alone[0] + 2 * alone[1] + alone[2],
    }.items():
        mixed = load_discriminator(head_path=paths, **files, **dict(how))
        torch.testing.assert_close(mixed(*arguments), expected)
    assert not any(p.requires_grad for p in mixed.parameters()) and not mixed.conditional
    assert mixed.kinds == ["score", "classifier"] and not mixed.shares_encoder(files["net"])
    assert len(mixed.heads) == 3 and len(mixed.networks()) == 5
    fingerprints = [part["heads"] for part in mixed.describe()["parts"]]
    assert fingerprints == [[fingerprint(h) for h in part.heads] for part in mixed.parts]


def test_a_mixed_ensemble_guides_by_the_sum_of_the_corrections(heads, files):
    paths, (x, sigma, labels), net = [heads["score"], heads["none"]], noisy(), files["net"]

    def denoised(path):
        discriminator = load_discriminator(head_path=path, **files)
        guidance = DiscriminatorGuidance(discriminator, (2.0, 0.0), 0.0)
        return guidance.denoise(net, x, sigma, labels, 0, 1)

    first, second = (denoised(path) for path in paths)
    assert (first - second).abs().max() > 0
    torch.testing.assert_close(denoised(paths), (first + second) / 2)


def test_what_a_mixed_ensemble_cannot_be_is_refused(heads, files, tmp_path):
    paths, told = [heads["score"], heads["none"]], "need different extractors (none, score)"
    refused(f"{told}; of those average is logits or sum", paths, average="probabilities", **files)
    refused(f"{told}, but a LoRA is of one", paths, lora_path=tmp_path / "lora", **files)
    with pytest.raises(ValueError, match="1 ensemble weights for 2 heads"):
        load_discriminator(head_path=paths, weights=[1], **files)
    refused(f"{told}; the weights on none have no positive sum", paths, weights=[1, 0], **files)
    refused("give that network", paths)


def test_logits_taken_for_probabilities_guide_nowhere_or_too_much(heads, files):
    """Reproduction B's fault: p = clip(mean logit), log ratio log(p / (1 - p))."""
    paths, (x, sigma, labels) = [heads["score"], heads["second"]], noisy()
    right = load_discriminator(head_path=paths, **files)
    wrong = load_discriminator(head_path=paths, average="mistaken", **files)
    with torch.no_grad():  # means of 0.25, 1.5 and -0.5, by a shift of one member
        shift = torch.tensor([0.25, 1.5, -0.5]) - right(x, sigma, labels)
    for one in (right, wrong):
        one.heads[0].register_forward_hook(lambda head, given, out: out + 2 * shift[:, None])
    leaf = x.clone().requires_grad_()
    means, ratios = right(leaf, sigma, labels), wrong(leaf, sigma, labels)
    torch.testing.assert_close(means.detach(), torch.tensor([0.25, 1.5, -0.5]))
    limit = math.log((1 - 1e-5) / 1e-5)
    expected = torch.tensor([math.log(0.25 / 0.75), limit, -limit])
    torch.testing.assert_close(ratios.detach(), expected, rtol=1e-3, atol=1e-5)
    ours, theirs = (torch.autograd.grad(out.sum(), leaf)[0] for out in (means, ratios))
    assert not theirs[1:].any(), "no guidance beyond the clip"
    torch.testing.assert_close(theirs[0], ours[0] / (0.25 * 0.75))
    assert wrong.describe()["average"] == "mistaken"


def test_files_that_are_no_heads_are_refused(heads, files, tmp_path):
    refused("no such discriminator", tmp_path / "absent.safetensors", **files)
    refused("no such discriminator", tmp_path, **files)
    edm.save_network(tmp_path / "net.safetensors", files["net"])
    refused("is no discriminator-head", tmp_path / "net.safetensors", **files)
    (tmp_path / "notes.txt").write_text("# notes")
    refused("not a PyTorch file", tmp_path / "notes.txt", **files)
    data = heads["score"].read_bytes()
    heads["score"].write_bytes(data[: len(data) // 2])
    refused("not a readable safetensors file", heads["score"], **files)
    (tmp_path / "empty.pt").touch()
    refused("", tmp_path / "empty.pt", **files)
    write_safetensors(tmp_path / "bare.safetensors", {}, "discriminator-head", {})
    refused(
        "does not say head and head_kwargs and extractor", tmp_path / "bare.safetensors", **files
    )
    for nothing in (None, []):
        with pytest.raises(ValueError, match="no discriminator is given"):
            load_discriminator(head_path=nothing, **files)


def test_a_head_with_nan_is_refused(tmp_path, files):
    discriminator = built("score", files)
    with torch.no_grad():
        discriminator.heads[0].enter.weight[0, 0] = math.nan
    save_head(tmp_path / "head.safetensors", discriminator.heads[0], discriminator.extractor)
    refused("tensor enter.weight holds NaN", tmp_path / "head.safetensors", **files)
    discriminator = built("classifier", files)
    with torch.no_grad():
        discriminator.heads[0].time_embed[0].weight[0, 0] = math.nan
    save_head(tmp_path / "head.safetensors", discriminator.heads[0], discriminator.extractor)
    refused("tensor 'time_embed.0.weight' has NaN", tmp_path / "head.safetensors", **files)


def test_a_fingerprint_tells_weights_and_names_apart():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.load_state_dict(first.state_dict())
    assert fingerprint(first) == fingerprint(second) and len(fingerprint(first)) == 16
    with torch.no_grad():
        second.bias[1] += 1e-6
    assert fingerprint(first) != fingerprint(second)
    a, b = nn.Sequential(), nn.Sequential()
    a.left, b.right = first, first
    assert fingerprint(a) != fingerprint(b)
    assert fingerprint(network(sigma_data=0.5)) != fingerprint(network(sigma_data=0.7)), (
        "it denoises differently"
    )


def test_a_score_head_is_shaped_by_its_arguments():
    head = ScoreHead(10, 6, num_classes=2, width=16, num_blocks=2)
    assert head.config == dict(
        feature_dim=10, emb_dim=6, num_classes=2, width=16, num_blocks=2, dropout=0.0
    )
    golden_fill.fill(head)
    features, emb, labels = torch.randn(3, 10, 4, 4), torch.randn(3, 6), torch.eye(2)[[0, 1, 1]]
    logits = head(features, emb, condition=labels)
    assert logits.shape == (3, 1) and len(logits.unique()) == 3
    assert not torch.equal(head(features, emb + 1, condition=labels), logits), (
        "the noise level modulates it"
    )
    shared = head(features, emb[:1], condition=labels)
    torch.testing.assert_close(shared, head(features, emb[:1].expand(3, -1), condition=labels))


# Latents ------------------------------------------------------------------------------------------


def test_the_authors_latent_files(tmp_path):
    """32x32_classifier.pt and discriminator_7.pt of their ImageNet code, with synthetic weights;
    golden case b."""
    arrays, config = golden_fill.load("b_imagenet_latent_stack")
    encoder = golden_fill.fill(
        create_classifier(**config["classifier_kwargs"], channel_mult=config["channel_mult_32"]),
        config["classifier_salt"],
    )
    head = golden_fill.fill(
        create_classifier(**config["discriminator_kwargs"]), config["discriminator_salt"]
    )
    with torch.no_grad():
        head.out[2].c_proj.weight *= config["out_scale"]
        head.out[2].c_proj.bias.fill_(config["out_bias"])
    torch.save(encoder.state_dict(), tmp_path / "32x32_classifier.pt")
    torch.save(head.state_dict(), tmp_path / "discriminator_7.pt")
    discriminator = load_discriminator(
        tmp_path / "32x32_classifier.pt", tmp_path / "discriminator_7.pt"
    )
    assert discriminator.conditional and discriminator.extractor.schedule == "linear"
    x, t, classes = (torch.from_numpy(arrays[name]) for name in ("x", "t", "labels"))
    time = t.double() / 999
    ratio = discriminator(x / vp.mean(time).reshape(-1, 1, 1, 1), vp.to_sigma(time), classes)
    assert np.abs(ratio.detach().numpy() - arrays["log_ratio"]).max() <= 2e-5
    gradient = cond_fn(discriminator)(x, t, classes)
    assert np.abs(gradient.numpy() - arrays["grad"]).max() <= 1e-4 * np.abs(arrays["grad"]).max()


def test_a_head_for_latents_of_the_published_classifier(tmp_path):
    """3,248,385 parameters in the layout of discriminator_7.pt, on features of the 20,832,488 of
    the classifier."""
    classifier = create_classifier(image_size=32, in_channels=4, channel_mult=(1, 2, 3))
    torch.save(classifier.state_dict(), tmp_path / "32x32_classifier.pt")
    data = LatentSet(np.zeros([4, 4, 32, 32], np.float16), np.array([0, 1, 2, 999]), "latents")
    discriminator = build_discriminator(
        "classifier", data, None, tmp_path / "32x32_classifier.pt", conditional=True
    )
    assert sum(p.numel() for p in discriminator.extractor.encoder.parameters()) == 20_832_488
    assert sum(p.numel() for p in discriminator.heads[0].parameters()) == 3_248_385
    expected = golden_fill.layouts()["DG_imagenet discriminator cond (in_channels=384)"]["entries"]
    found = {
        name: list(tensor.shape) for name, tensor in discriminator.heads[0].state_dict().items()
    }
    assert found == {entry[0]: list(entry[1]) for entry in expected}


@pytest.mark.parametrize(("channels", "schedule"), [(3, "cosine"), (4, "linear")])
def test_the_cosine_schedule_is_of_images_of_64_pixels(tmp_path, channels, schedule):
    torch.save(
        create_classifier(
            image_size=64,
            in_channels=channels,
            classifier_width=64,
            classifier_depth=1,
            classifier_attention_resolutions="8",
        ).state_dict(),
        tmp_path / "classifier.pt",
    )
    data = LatentSet(np.zeros([1, channels, 64, 64], np.float32), None, "latents")
    built = build_discriminator("classifier", data, None, tmp_path / "classifier.pt", width=64)
    assert built.extractor.schedule == schedule


def test_a_training_loop_leaves_the_frozen_network_in_evaluation_mode():
    """Dropout inside the score network or the classifier stays off; heads are switched."""
    small = dict(model_channels=8, channel_mult=[1], attn_resolutions=[], dropout=0.5)
    net = golden_fill.fill(edm.EDMPrecond(4, 1, model_type="SongUNet", **small), gain=0.6)
    encoder = create_classifier(8, in_channels=1, classifier_width=64, classifier_depth=1)
    x, sigma = torch.ones(2, 1, 4, 4), torch.ones(2)
    for extractor in (ScoreExtractor(net), ClassifierExtractor(encoder), PixelExtractor()):
        head = nn.Dropout()
        discriminator = Discriminator(extractor, [head])
        for mode in (True, False, True):
            discriminator.train(mode)
            assert head.training == mode
            assert not any(module.training for module in extractor.modules())
    features, _ = ScoreExtractor(net).train()(x, sigma)
    assert torch.equal(features, ScoreExtractor(net).train()(x, sigma)[0])
    fresh = Discriminator(PixelExtractor(), [nn.Identity()]).train()
    assert not fresh.extractor.training and fresh.training


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_it_can_be_traced(kind, conditional, files):
    """By torch.jit, for other batches and noise levels than the traced one."""
    discriminator = built(kind, files, conditional=conditional).eval()
    number = 3 if conditional else 2
    traced = torch.jit.trace(discriminator, noisy(2)[:number], check_trace=False)
    torch.testing.assert_close(traced(*noisy(3)[:number]), discriminator(*noisy(3)[:number]))


@pytest.mark.parametrize("width", [32, 96])
def test_a_narrow_head_has_attention_heads_that_divide_it(tmp_path, width):
    built = build_discriminator("none", DATA, width=width).eval()
    weight = built.heads[0].out[2].c_proj.weight
    nn.init.normal_(weight)
    save_head(tmp_path / "head.safetensors", built.heads[0], built.extractor)
    loaded = load_discriminator(None, tmp_path / "head.safetensors")
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.5, 2.0])
    assert built(x, sigma).abs().min() > 0
    assert torch.equal(built(x, sigma), loaded(x, sigma))
