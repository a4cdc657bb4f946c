"""Image to image: which image a seed begins with, what the sampler does from there, what a store
knows."""

import numpy as np
import pytest
import torch

import edm
from dg.data.images import ImageSet
from dg.samplers.image_to_image import ImageToImage, ImageToImageSampling
from dg.sampling import Sampling, describe, draw_images
from tests.dg.samplers.test_restart import Counted
from tests.dg.test_sampling import guidance, network

HOW = ImageToImageSampling(num_steps=6, strength=0.5, S_churn=3)


def inputs(count=3, side=4, channels=1, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, [count, side, side, channels])
    return ImageSet(pixels.astype(np.uint8), name="inputs")


@pytest.mark.parametrize("guided", [False, True])
def test_an_image_depends_on_its_seed_and_its_input_alone(guided):
    net, images = network(), inputs()
    model, steering = ImageToImage(net, images), guidance(net) if guided else None
    found, classes = draw_images(model, [5, 0, 4], HOW, steering)
    for row, seed in enumerate((5, 0, 4)):
        rnd = edm.StackedRandomGenerator("cpu", [seed])
        latents = rnd.randn([1, 1, 4, 4])
        one_hot = torch.eye(3)[rnd.randint(3, size=[1])]
        image = images.floats([seed % 3])
        how = dict(num_steps=6, S_churn=3, image=image, strength=0.5, randn_like=rnd.randn_like)
        alone = edm.edm_sampler(net, latents, one_hot, guidance=steering, **how)
        assert torch.allclose(found[row], alone[0], atol=1e-5)
        assert one_hot.argmax() == classes[row]
    other = ImageToImage(
        net, ImageSet(np.concatenate([images.images[:2], 255 - images.images[2:]]))
    )
    again, _ = draw_images(other, [5, 0, 4], HOW, steering)
    assert torch.equal(again[1:], found[1:]) and not torch.equal(again[0], found[0])


@pytest.mark.parametrize(("strength", "evaluations"), [(0.5, 5), (0.34, 3), (0.17, 1), (1, 11)])
def test_the_number_of_evaluations_is_counted_right(strength, evaluations):
    sampling, net = ImageToImageSampling(num_steps=6, strength=strength), Counted()
    assert sampling.num_evaluations == evaluations
    draw_images(ImageToImage(net, inputs()), [0], sampling)
    assert len(net.seen) == evaluations


def test_mixed_precision_is_that_of_other_samplers():
    net, seen = network(label_dim=0), []

    class Watch(edm.Guidance):
        def denoise(self, *called, **given):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().denoise(*called, **given)

    draw_images(net, [0], Sampling(num_steps=6), Watch(), precision="bfloat16")
    sampling, model = ImageToImageSampling(num_steps=6, strength=1), ImageToImage(net, inputs())
    draw_images(model, [0], sampling, Watch(), precision="bfloat16")
    assert seen[:11] == seen[11:] and set(seen) == {False, True}


def test_a_description_names_the_inputs_and_the_strength():
    net = network()
    found = [
        describe(ImageToImage(net, inputs()), HOW),
        describe(ImageToImage(net, inputs(seed=1)), HOW),
        describe(ImageToImage(net, inputs()), ImageToImageSampling(6, strength=0.7, S_churn=3)),
    ]
    assert all(one not in found[:i] for i, one in enumerate(found))
    assert found[0]["image"] == inputs().fingerprint() and found[2]["sampling"]["strength"] == 0.7
    assert describe(ImageToImage(net, inputs()), HOW) == found[0]


@pytest.mark.parametrize("shape", [dict(side=5), dict(channels=3)])
def test_images_of_another_size_are_refused(shape):
    with pytest.raises(ValueError, match="but the network makes 4 pixels and 1 channels"):
        ImageToImage(network(), inputs(**shape))
