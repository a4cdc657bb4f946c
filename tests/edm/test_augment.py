"""EDM's augmentation: what it leaves, what it moves where, what it tells."""

import math

import pytest
import torch

import edm

NAMES = ("xflip", "yflip", "scale", "rotation", "direction", "stretch", "x", "y")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def transform(image, pipe=None, **values):
    """(image, labels) after a transform of given parameters."""
    parameters = torch.tensor([[float(values.get(name, 0)) for name in NAMES]]).expand(
        len(image), -1
    )
    return (pipe or edm.AugmentPipe()).apply(image, parameters)


def blob(x=0.3, y=-0.2, size=32, width=0.2, ratio=1.0):
    """A smooth spot at (x, y), edges at -1 and 1, y down; `ratio` wider than high."""
    place = (torch.arange(size) + 0.5) / size * 2 - 1
    return torch.exp(
        -(((place[None, :] - x) / (width * ratio)) ** 2) - ((place[:, None] - y) / width) ** 2
    )[None, None]


def difference(a, b):
    return (a - b).abs().max().item()


def test_probability_zero_changes_nothing():
    images = torch.randn(16, 3, 9, 9, generator=generator())
    out, labels = edm.AugmentPipe(p=0)(images, generator())
    assert torch.equal(out, images) and torch.equal(labels, torch.zeros(16, 9))


def test_flips_are_exact():
    images = torch.randn(2, 3, 8, 8, generator=generator())
    for values, axes, told in (
        (dict(xflip=1), [3], (1, 0)),
        (dict(yflip=1), [2], (0, 1)),
        (dict(xflip=1, yflip=1), [2, 3], (1, 1)),
    ):
        out, labels = transform(images, **values)
        assert torch.equal(out, images.flip(axes)) and labels[0].tolist() == [
            *told,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ]


@pytest.mark.parametrize("size", [8, 28, 33])
@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_quarter_turns(size, quarter):
    """Rotation by a positive angle is counterclockwise to the eye, as that of the published
    pipe."""
    image = blob(size=size, width=0.3)
    out, labels = transform(image, rotation=quarter * math.pi / 2)
    assert difference(out, torch.rot90(image, quarter, (2, 3))) < (0.06 if size == 8 else 0.01)
    assert difference(out, torch.rot90(image, quarter + 1, (2, 3))) > 0.5
    angle = quarter * math.pi / 2
    expected = torch.tensor([[0, 0, 0, math.cos(angle) - 1, math.sin(angle), 0, 0, 0, 0]])
    torch.testing.assert_close(labels, expected, atol=1e-6, rtol=0)


def test_a_turn_by_any_angle_moves_a_spot_there():
    out, _ = transform(blob(0.3, 0.0), rotation=math.pi / 6)
    assert difference(out, blob(0.3 * math.cos(math.pi / 6), -0.3 * math.sin(math.pi / 6))) < 0.01


def test_scale_enlarges_about_the_centre():
    out, labels = transform(blob(0.3, -0.2), scale=5 * math.log2(1.5))  # 0.2 in log2 is one unit
    assert difference(out, blob(0.45, -0.3, width=0.3)) < 0.01
    assert labels[0, 2].item() == pytest.approx(5 * math.log2(1.5)) and (labels[0] != 0).sum() == 1


def test_stretch_widens_along_a_direction_and_narrows_across():
    image, amount = blob(0.3, -0.2), 5 * math.log2(1.25)
    out, labels = transform(image, stretch=amount)
    assert difference(out, blob(0.3 * 1.25, -0.2 / 1.25, width=0.2 / 1.25, ratio=1.25**2)) < 0.01
    torch.testing.assert_close(labels, torch.tensor([[0, 0, 0, 0, 0, amount, 0, 0, 0]]))
    across, labels = transform(image, stretch=amount, direction=math.pi / 2)
    assert difference(across, transform(image, stretch=-amount)[0]) < 1e-5
    torch.testing.assert_close(
        labels, torch.tensor([[0, 0, 0, 0, 0, 0, amount, 0, 0]]), atol=1e-6, rtol=0
    )


def test_shift_moves_by_an_eighth_of_the_image():
    out, labels = transform(blob(0.1, -0.1), x=1, y=-1.5)
    assert difference(out, blob(0.35, -0.475)) < 0.01 and labels[0, 7:].tolist() == [1, -1.5]


def test_the_shift_comes_last():
    out, _ = transform(blob(0.3, 0), rotation=math.pi / 2, scale=5 * math.log2(1.5), x=1)
    assert difference(out, blob(0.25, -0.45, width=0.3)) < 0.02


def test_images_reflect_at_their_edges():
    constant = torch.full([64, 2, 6, 6], 0.7)
    out, _ = edm.AugmentPipe()(constant, generator())
    assert difference(out, constant) < 1e-5
    out, _ = transform(blob(0, 0), x=8)  # shifted by the whole image: its mirror image comes in
    assert difference(out, blob(0, 0)) < 0.01


def test_an_image_depends_on_its_own_parameters_alone():
    images, pipe = torch.randn(32, 3, 16, 16, generator=generator()), edm.AugmentPipe(0.5)
    parameters = pipe.draw(32, generator())
    whole, labels = pipe.apply(images, parameters)
    for part in (slice(0, 1), slice(5, 20)):
        out, told = pipe.apply(images[part], parameters[part])
        assert difference(out, whole[part]) < 1e-5 and torch.equal(told, labels[part])
    untouched = (parameters[:, 1:] == 0).all(1)
    mirrored = torch.where(parameters[:, :1, None, None] == 1, images.flip(3), images)
    assert untouched.any() and torch.equal(whole[untouched], mirrored[untouched])


def test_parameters_have_their_distributions():
    count, p = 20_000, 0.3
    a = dict(zip(NAMES, edm.AugmentPipe(p).draw(count, generator()).unbind(1), strict=True))
    close = dict(abs=4 * 0.5 / math.sqrt(count))  # 4 standard errors at most
    assert (a["xflip"] == 1).float().mean() == pytest.approx(0.5, **close), (
        "always mirrored half of the time"
    )
    assert (a["yflip"] == 1).float().mean() == pytest.approx(p / 2, **close)
    for name in ("scale", "rotation", "stretch", "x", "y"):
        assert (a[name] != 0).float().mean() == pytest.approx(p, **close)
    assert (a["direction"] != 0).float().mean() == pytest.approx(p / 2, **close)
    for name in ("scale", "stretch", "x", "y"):
        drawn = a[name][a[name] != 0]
        assert abs(drawn.mean()) < 0.06 and drawn.std() == pytest.approx(1, abs=0.05)
    angle = a["rotation"][a["rotation"] != 0]
    assert angle.abs().max() <= math.pi and angle.std() == pytest.approx(
        math.pi / math.sqrt(3), rel=0.05
    )
    assert torch.equal(a["x"] != 0, a["y"] != 0) and ((a["scale"] != 0) & (a["stretch"] != 0)).any()


@pytest.mark.parametrize(
    "name", ["xflip", "yflip", "scale", "rotate_frac", "aniso", "translate_frac"]
)
def test_one_transform_alone(name):
    others = dict.fromkeys(
        ("xflip", "yflip", "scale", "rotate_frac", "aniso", "translate_frac"), 0
    ) | {name: 1}
    used = edm.AugmentPipe(1, **others).draw(200, generator()).ne(0).any(0)
    columns = {
        "xflip": [0],
        "yflip": [1],
        "scale": [2],
        "rotate_frac": [3],
        "aniso": [4, 5],
        "translate_frac": [6, 7],
    }
    assert used.nonzero().flatten().tolist() == columns[name]


def test_sizes_of_the_transforms_are_options():
    big = edm.AugmentPipe(
        scale_std=1, aniso_std=1, translate_frac_std=0.25, rotate_frac_max=0.5, aniso_rotate_prob=1
    )
    assert (
        difference(transform(blob(0.2, 0.1), big, scale=1, x=1)[0], blob(0.9, 0.2, width=0.4))
        < 0.01
    )
    assert difference(transform(blob(), big, stretch=1)[0], transform(blob(), stretch=5)[0]) < 1e-5
    drawn = big.draw(500, generator())
    assert math.pi / 4 < drawn[:, 3].abs().max() <= math.pi / 2 and (drawn[:, 4] != 0).all()


def test_the_generator_decides_and_the_global_one_is_left_alone():
    images, pipe = torch.randn(4, 1, 8, 8, generator=generator()), edm.AugmentPipe()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = pipe(images, generator(5))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, other in zip(
        first, pipe(images, generator(5)), pipe(images, generator(6)), strict=True
    ):
        assert torch.equal(a, b) and not torch.equal(a, other)


def test_half_precision_around_it_does_not_touch_the_images():
    images, pipe = torch.randn(4, 1, 8, 8, generator=generator()), edm.AugmentPipe()
    expected = pipe(images, generator())
    with torch.autocast("cpu", torch.bfloat16):
        found = pipe(images, generator())
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
