"""EDM's augmentation: random geometric transforms. The network gets their parameters as labels, so
they do not leak into its images.

Karras et al. 2022, appendix F.2 and table 6, after Karras et al. 2020 (StyleGAN2-ADA). Written with
one difference: images are resampled with Lanczos's symmetric filter, of as many taps as the wavelet
of the published code, and reflect at the edge.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LOBES = 3  # reach of the Lanczos filter, pixels to each side
TAPS = 4 * LOBES  # at twice the resolution
GEOMETRIC = (2, 3, 5, 6, 7)  # columns of the parameters that need resampling where they are not 0


class AugmentPipe:
    """Geometric transforms drawn per image, and the labels that describe them.

    p                   overall probability of a transform
    xflip, yflip, scale, rotate_frac, aniso, translate_frac
                        factors of `p`, one per transform, up to a probability of 1; EDM mirrors
                        always
    scale_std           standard deviation of log2 of the scale
    rotate_frac_max     largest angle, 1 = half a turn in either direction
    aniso_std           standard deviation of log2 of the stretch
    aniso_rotate_prob   probability that the stretch is along a random direction (1 in the paper's
                        table, 0.5 in its code)
    translate_frac_std  standard deviation of the shift, in parts of the image's size

    Defaults as in the training of the published networks, whose `augment_dim` is `dim`.
    """

    dim = 9

    def __init__(
        self,
        p: float = 1,
        xflip: float = 1e8,
        yflip: float = 1,
        scale: float = 1,
        rotate_frac: float = 1,
        aniso: float = 1,
        translate_frac: float = 1,
        scale_std: float = 0.2,
        rotate_frac_max: float = 1,
        aniso_std: float = 0.2,
        aniso_rotate_prob: float = 0.5,
        translate_frac_std: float = 0.125,
    ):
        self.probabilities = p * torch.tensor(
            [xflip, yflip, scale, rotate_frac, aniso, translate_frac]
        )
        self.scale_std, self.rotate_frac_max, self.aniso_std = scale_std, rotate_frac_max, aniso_std
        self.aniso_rotate_prob, self.translate_frac_std = aniso_rotate_prob, translate_frac_std

    def __call__(
        self, images: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Square images [N, C, R, R] -> (transformed [N, C, R, R], labels [N, 9]); `generator` is a
        CPU's."""
        return self.apply(images, self.draw(len(images), generator))

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """The parameters a_0 .. a_7 of table 6 for `count` images, [count, 8] on the CPU; 0 where a
        transform is left out."""
        bits = torch.randint(2, [count, 2], generator=generator)  # mirror, turn upside down
        # of the rotation, of the stretch
        angles = math.pi * (2 * torch.rand(count, 2, generator=generator) - 1)
        normal = torch.randn(count, 4, generator=generator)  # scale, stretch, shift in x and y
        chance = torch.rand(count, 7, generator=generator)
        rotation = angles[:, 0] * self.rotate_frac_max
        direction = torch.where(chance[:, 6] < self.aniso_rotate_prob, angles[:, 1], 0)
        values = [*bits.unbind(1), normal[:, 0], rotation, direction, *normal[:, 1:].unbind(1)]
        done = (chance[:, :6] < self.probabilities)[:, [0, 1, 2, 3, 4, 4, 5, 5]]
        return torch.where(done, torch.stack(values, dim=1), 0)

    def apply(self, images: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Transform square images [N, C, R, R] by parameters [N, 8] on the CPU; as calling. Those
        of 0 change nothing."""
        with torch.autocast(images.device.type, enabled=False):  # the images keep their precision
            return self._transformed(images, parameters), self.labels(parameters).to(images.device)

    def _transformed(self, images: Tensor, parameters: Tensor) -> Tensor:
        device, mirrored, upside_down = images.device, parameters[:, 0] != 0, parameters[:, 1] != 0
        images = torch.where(mirrored.to(device)[:, None, None, None], images.flip(3), images)
        images = torch.where(upside_down.to(device)[:, None, None, None], images.flip(2), images)
        # found on the CPU: no waiting for a GPU
        rows = parameters[:, GEOMETRIC].any(dim=1).nonzero().flatten()
        if len(rows):
            moved = self._resample(
                images[rows.to(device)], self.inverse(parameters[rows]).to(device)
            )
            images = images.index_copy(0, rows.to(device), moved)
        return images

    @staticmethod
    def labels(parameters: Tensor) -> Tensor:
        """Labels of the transforms for the network, [N, 9]: the last column of table 6."""
        a = parameters.unbind(dim=1)
        augment_labels = [
            a[0],
            a[1],
            a[2],
            a[3].cos() - 1,
            a[3].sin(),
            a[5] * a[4].cos(),
            a[5] * a[4].sin(),
            a[6],
            a[7],
        ]
        return torch.stack(augment_labels, dim=1)

    def inverse(self, parameters: Tensor) -> Tensor:
        """Affine maps [N, 2, 3] from a place in the transformed image to one in the original; edges
        at -1 and 1, y down.

        Forward: scale by 2^(0.2 a_2), rotate by -a_3, stretch by 2^(0.2 a_5) along a_4, shift by
        a_6, a_7 times 1/8.
        """
        _, _, scale, rotation, direction, stretch, *shift = parameters.unbind(dim=1)
        factors = (stretch * self.aniso_std).exp2()
        unstretch = (
            _rotated(direction)
            @ torch.diag_embed(torch.stack([1 / factors, factors], 1))
            @ _rotated(-direction)
        )
        # [N, 2, 2]
        linear = _rotated(rotation) @ unstretch / (scale * self.scale_std).exp2()[:, None, None]
        # [N, 2, 1]; the image is 2 wide
        offset = 2 * self.translate_frac_std * torch.stack(shift, dim=1)[:, :, None]
        return torch.cat([linear, -linear @ offset], dim=2)

    @staticmethod
    def _resample(images: Tensor, inverse: Tensor) -> Tensor:
        """Look up images at `inverse` of every place, at twice the resolution so that little is
        lost or aliased."""
        count, channels, size, _ = images.shape
        taps = _lanczos().to(images)
        kernel = taps.outer(taps).expand(channels, 1, -1, -1)  # sum 1
        # Pixel i of the image has its centre at 2i + 0.5 of the doubled one, as grid_sample counts.
        doubled = F.conv_transpose2d(
            _reflected(images, LOBES), 4 * kernel, stride=2, padding=TAPS - 1, groups=channels
        )
        border = LOBES * 2 - 1  # doubled pixels that the last filter reaches beyond the image
        wide = 2 * size + 2 * border
        # from the edges of the wide grid
        stretch = torch.tensor([wide / (2 * size), wide / (2 * size), 1.0]).to(images)
        grid = F.affine_grid(
            inverse.to(images) * stretch, [count, channels, wide, wide], align_corners=False
        )
        doubled = F.grid_sample(doubled, grid, padding_mode="reflection", align_corners=False)
        return F.conv2d(doubled, kernel, stride=2, groups=channels)


def _rotated(angle: Tensor) -> Tensor:
    """Rotation matrices [N, 2, 2]."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


def _lanczos() -> Tensor:
    """The windowed sinc between the pixels of the doubled image, [TAPS], symmetric, of sum 1."""
    x = (torch.arange(TAPS) - (TAPS - 1) / 2) / 2  # in pixels of the image
    taps = torch.sinc(x) * torch.sinc(x / LOBES)
    return taps / taps.sum()


def _reflected(images: Tensor, margin: int) -> Tensor:
    """Images continued by their mirror image over each edge, as often as it takes; [N, C, R + 2
    margin, R + 2 margin]."""
    size = images.shape[-1]
    index = torch.arange(-margin, size + margin, device=images.device) % (2 * size)
    index = torch.minimum(index, 2 * size - 1 - index)
    return images[:, :, index][:, :, :, index]
