"""Training data of a discriminator: checked sets, disjoint splits, batches, and noise."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dg import vp
from dg.data.datasets import ImageSet
from dg.data.latents import AnySet, LatentSet, Rows
from dg.data.manifests import was_generated
from dg.discriminator import ScoreDifference
from dg.losses import NoisyBatch
from dg.recipes import DiscriminatorTraining
from dg.runtime.randomness import step_generator


def random_subset(data: AnySet, n: int | None, seed: int) -> AnySet:
    """`n` items of a set, None for all, drawn by the seed: a set may be sorted by class. ValueError
    if it has fewer."""
    if n is None:
        return data
    data.take(n)  # refuses more than there are
    return data.subset(np.sort(np.random.default_rng(seed).permutation(len(data))[:n]))


def check_sets(
    real: AnySet,
    fake: AnySet | None,
    settings: DiscriminatorTraining,
    conditional: bool | None = None,
) -> None:
    """Refuse sets that cannot be told apart fairly, before anything is computed."""
    if settings.needs_fake != (fake is not None):
        needs = "needs generated data; give them" if fake is None else "takes no generated data"
        raise ValueError(f"the loss {settings.loss} {needs}")
    sets = _given(real, fake)
    if fake is not None:
        _check_pair(real, fake, settings)
    if isinstance(real, LatentSet):
        _check_latents(sets, settings)
    for data in sets:
        sizes = [len(part) for part in _parts(len(data), settings)]
        if sizes[0] * len(sets) < settings.batch_size:
            share = "half a batch" if len(sets) == 2 else "a batch"
            raise ValueError(
                f"{data.name}: {sizes[0]} training {data.what} are fewer than {share} of "
                f"{settings.batch_size}; give more {data.what} or a smaller batch_size"
            )
        if any(fraction and not size for fraction, size in zip(settings.split, sizes, strict=True)):
            raise ValueError(
                f"{data.name}: {len(data)} {data.what} are too few for the split "
                f"{settings.split}; give more {data.what} or another split"
            )
    if settings.conditional if conditional is None else conditional:
        _check_labels(real, fake)


def _given(real: AnySet, fake: AnySet | None) -> list[AnySet]:
    """The sets that there are."""
    return [real] if fake is None else [real, fake]


def _check_pair(real: AnySet, fake: AnySet, settings: DiscriminatorTraining) -> None:
    if real.what != fake.what:
        raise ValueError(
            f"{fake.name}: holds {fake.what}, but {real.name} holds {real.what}; encode the "
            "images, or give images alone"
        )
    if (real.resolution, real.channels) != (fake.resolution, fake.channels):
        raise ValueError(
            f"{fake.name}: {fake.what} of {fake.resolution} pixels and {fake.channels} channels, "
            f"but {real.name} has {real.resolution} pixels and {real.channels} channels; give sets "
            "of one kind"
        )
    if len(real) != len(fake) and not settings.unequal:
        raise ValueError(
            f"{real.name} has {len(real)} {real.what} and {fake.name} has {len(fake)}; take "
            f"{min(len(real), len(fake))} of both, or all with `unequal`"
        )


def doubts(real: AnySet, fake: AnySet | None, real_source, fake_source) -> list[str]:
    """Return one line for each sign that the real or the generated data are the wrong ones."""
    lines = []
    if was_generated(real_source):
        swapped = "; are real and generated data swapped?"
        swapped = "" if fake is None or was_generated(fake_source) else swapped
        lines.append(f"{real_source} was generated, as its manifest.json says{swapped}")
    if fake is not None and real.items.shape[1:] == fake.items.shape[1:]:
        known = {hash(item.tobytes()) for item in real.items}
        same = sum(hash(item.tobytes()) in known for item in fake.items)
        if same > len(fake) // 100:
            lines.append(
                f"{same} of {len(fake)} generated {fake.what} are also real ones, so that a "
                "discriminator cannot tell them apart"
            )
    return lines


def _check_latents(sets: list[LatentSet], settings: DiscriminatorTraining) -> None:
    real, fake = sets[0], sets[-1]
    if settings.flip:
        raise ValueError(
            f"{real.name}: a mirrored latent is not the latent of a mirrored image; mirror none "
            "here, and encode mirrored copies of the images too"
        )
    real_made, fake_made = (
        {"precision": str(data.latents.dtype)} | (data.encoding or {}) for data in (real, fake)
    )
    # a discriminator would see this difference, and nothing else
    for name in real_made.keys() & fake_made.keys():
        if real_made[name] != fake_made[name]:
            raise ValueError(
                f"{fake.name}: was encoded with {name} {fake_made[name]}, but {real.name} with "
                f"{real_made[name]}; encode both alike"
            )


def _check_labels(real: AnySet, fake: AnySet | None) -> None:
    for data in _given(real, fake):
        if data.labels is None:
            raise ValueError(
                f"{data.name}: has no class labels; give a labelled set, or train an "
                "unconditional discriminator"
            )
    if fake is None:
        return
    if None not in (real.class_names, fake.class_names) and real.class_names != fake.class_names:
        number, (here, there) = next(
            (i, pair)
            for i, pair in enumerate(zip_longest(fake.class_names, real.class_names))
            if pair[0] != pair[1]
        )
        raise ValueError(
            f"{fake.name}: class {number} is {here}, but in {real.name} it is {there}; give sets "
            "of the same class folders"
        )
    if fake.labels.max() >= real.num_classes:
        raise ValueError(
            f"{fake.name}: has label {fake.labels.max()}, but the labels of {real.name} are "
            f"0 to {real.num_classes - 1}; give sets of the same classes"
        )


def check_discriminator(discriminator, data: AnySet, settings: DiscriminatorTraining) -> None:
    """Refuse what another loss trains, a frozen network that was made for other images, or one that
    would get classes only while sampling."""
    if isinstance(discriminator, ScoreDifference) != (settings.loss == "difference"):
        trained = "ScoreDifference" if settings.loss == "difference" else "Discriminator"
        raise ValueError(f"the loss {settings.loss} trains a {trained}; give one")
    kind, extractor = discriminator.extractor.kind, discriminator.extractor
    if kind == "classifier":
        encoder = extractor.encoder
        if (encoder.image_size, encoder.in_channels) != (data.resolution, data.channels):
            raise ValueError(
                f"{data.name}: {data.what} of {data.resolution} pixels and {data.channels} "
                f"channels, but the classifier takes {encoder.image_size} pixels and "
                f"{encoder.in_channels} channels; give a classifier of that size"
            )
    classes = (discriminator.heads[0] if kind == "finetuned" else extractor).label_dim
    if classes and not settings.conditional:
        raise ValueError(
            "the score network is class-conditional, and so are its features; train a "
            "conditional discriminator"
        )
    if classes and classes != data.num_classes:
        raise ValueError(
            f"{data.name}: has {data.num_classes} classes, but the score network has "
            f"{classes}; give a set of these classes"
        )
    if discriminator.conditional != settings.conditional:
        raise ValueError(
            f"the head is {'' if discriminator.conditional else 'not '}conditional and the "
            f"training is {'' if settings.conditional else 'not '}; make both alike"
        )


class Split(NamedTuple):
    """Images or latents of one split, the real ones first. Labels and batches are on the training
    device, and images too."""

    images: Tensor | Rows  # uint8 [n, C, H, W], or latents
    labels: Tensor | None  # int64 [n]
    num_real: int
    num_classes: int

    @property
    def num_fake(self) -> int:
        return len(self.images) - self.num_real

    @property
    def kinds(self) -> list[tuple[int, int]]:
        """(first index, number) of the real and of the generated images, where there are any."""
        both = ((0, self.num_real), (self.num_real, self.num_fake))
        return [(first, number) for first, number in both if number]

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """(float32 [N, C, H, W], images in [-1, 1]; labels [N, K] one-hot or None; targets [N]) at
        `index` [N]."""
        items, labels = self.images[index], None
        images = items.to(torch.float32)
        if items.dtype == torch.uint8:
            images = images / 127.5 - 1
        if self.labels is not None:
            labels = F.one_hot(self.labels[index], self.num_classes).to(torch.float32)
        return images, labels, (index < self.num_real).to(torch.float32)


def split_sets(
    real: AnySet, fake: AnySet | None, settings: DiscriminatorTraining, device="cpu"
) -> list[Split]:
    """Disjoint train, validation and test splits; which item goes where depends on the seed and the
    set's size."""
    splits, sets = [], _given(real, fake)
    for indices in zip(*(_parts(len(data), settings) for data in sets), strict=True):
        pairs = list(zip(sets, indices, strict=True))
        labels = (
            np.concatenate([data.labels[index] for data, index in pairs])
            if settings.conditional
            else None
        )
        items = (
            Rows(sets, indices, device) if isinstance(real, LatentSet) else _images(pairs, device)
        )
        splits.append(
            Split(
                items,
                None if labels is None else torch.from_numpy(labels).to(device),
                len(indices[0]),
                real.num_classes,
            )
        )
    return splits


def _images(pairs: list[tuple[ImageSet, np.ndarray]], device) -> Tensor:
    """uint8 [n, C, H, W]"""
    images = np.concatenate([data.images[index] for data, index in pairs])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)


def _parts(n: int, settings: DiscriminatorTraining) -> list[np.ndarray]:
    """Indices below n of the three splits."""
    bounds = np.round(np.cumsum(settings.split) * n).astype(int)
    return np.split(np.random.default_rng(settings.seed).permutation(n), bounds[:-1])


def epoch_order(train: Split, settings: DiscriminatorTraining, epoch: int) -> Tensor:
    """Indices of every batch of an epoch, [steps, batch_size]; images that fill no batch are left
    out."""
    generator = step_generator(settings.seed, "order", epoch)
    numbers = [number for _, number in train.kinds]
    steps = _steps(numbers, settings)
    if settings.batches == "mixed":
        order = torch.randperm(len(train.images), generator=generator)
        return order[: steps * settings.batch_size].reshape(steps, -1).to(train.images.device)
    longest, share = max(numbers), settings.batch_size // len(numbers)
    shares = [
        first + _endless_permutation(n, longest, generator)[: steps * share].reshape(steps, share)
        for first, n in train.kinds
    ]
    return torch.cat(shares, dim=1).to(train.images.device)


def _steps(numbers: list[int], settings: DiscriminatorTraining) -> int:
    """Batches of an epoch on so many training images of each kind that there is."""
    if settings.batches == "mixed":
        return sum(numbers) // settings.batch_size
    return max(numbers) // (settings.batch_size // len(numbers))


def images_per_epoch(sizes: Sequence[int], settings: DiscriminatorTraining) -> int:
    """Images in all batches of an epoch, of sets of so many images each before they are split."""
    numbers = [len(_parts(size, settings)[0]) for size in sizes]
    return _steps(numbers, settings) * settings.batch_size


def _endless_permutation(n: int, length: int, generator) -> Tensor:
    """`length` indices below n: whole permutations, one after the other."""
    return torch.cat([torch.randperm(n, generator=generator) for _ in range(-(-length // n))])[
        :length
    ]


def noise_level(u: Tensor, settings: DiscriminatorTraining) -> Tensor:
    """Noise levels, float64 [N], from uniform u [N] in [0, 1]; the times in between are in the
    dtype of u."""
    if settings.time_sampling == "importance":
        return vp.to_sigma(vp.importance_time(u, settings.time_min)[0].double())
    if settings.time_sampling == "uniform":
        return vp.to_sigma(vp.uniform_time(u, settings.time_min).double())
    return (
        torch.special.ndtri(u.double().clamp(1e-9, 1 - 1e-9)) * settings.P_std + settings.P_mean
    ).exp()


def perturb(
    images: Tensor,
    labels: Tensor | None,
    targets: Tensor,
    u: Tensor,
    z: Tensor,
    settings: DiscriminatorTraining,
) -> NoisyBatch:
    """Clean images [N, C, H, W] with noise z of the levels that u [N] stands for."""
    sigma = noise_level(u, settings)
    return NoisyBatch(
        images, images + sigma.to(images.dtype).reshape(-1, 1, 1, 1) * z, sigma, labels, targets
    )


def noisy_batch(
    split: Split, index: Tensor, settings: DiscriminatorTraining, generator: torch.Generator
) -> NoisyBatch:
    """The images at `index` [N], perturbed and perhaps mirrored by random numbers of
    `generator`."""
    images, labels, targets = split.batch(index)
    device = images.device
    u = torch.rand(
        len(index), generator=generator, dtype=getattr(torch, settings.time_dtype), device=device
    )
    z = torch.randn(images.shape, generator=generator, device=device)
    if settings.flip:
        mirrored = torch.rand(len(index), 1, 1, 1, generator=generator, device=device) < 0.5
        images = torch.where(mirrored, images.flip(-1), images)
    return perturb(images, labels, targets, u, z, settings)
