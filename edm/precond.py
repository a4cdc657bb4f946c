"""Preconditioned denoisers: a U-Net F wrapped so that D(x; sigma) = c_skip x + c_out F(c_in x;
c_noise).

Karras et al. 2022, table 1: one class per column. All take the keyword arguments recorded in
published checkpoints.
"""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edm.networks import DhariwalUNet, SongUNet

UNETS = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}


class Encoding(NamedTuple):
    """A noisy image halfway through the network: what `encode` returns and `decode` finishes."""

    x: Tensor  # [N, C, R, R] float32 noisy image
    sigma: Tensor  # [N or 1, 1, 1, 1] float32
    skips: list[Tensor]  # encoder features, full resolution first
    emb: Tensor  # [N or 1, E] embedding of noise level and class

    def detach(self) -> "Encoding":
        return Encoding(
            self.x.detach(), self.sigma, [h.detach() for h in self.skips], self.emb.detach()
        )


class Preconditioner(nn.Module):
    """Denoiser D(x; sigma) around a U-Net. Subclasses give `coefficients`; calling one denoises.

    img_resolution, img_channels  size of the images
    label_dim                     number of classes, 0 = unconditional
    use_fp16                      run the U-Net in half precision on a GPU, as the checkpoint
                                  recommends
    model_type, **model_kwargs    the U-Net's class name and its own arguments
    """

    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def __init__(
        self,
        img_resolution,
        img_channels,
        label_dim,
        use_fp16,
        model_type,
        out_channels,
        **model_kwargs,
    ):
        if model_type not in UNETS:
            raise ValueError(f"model_type is {model_type!r}; use one of {', '.join(UNETS)}")
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = (
            img_resolution,
            img_channels,
            label_dim,
        )
        self.use_fp16 = use_fp16
        self.model = UNETS[model_type](
            img_resolution=img_resolution,
            in_channels=img_channels,
            out_channels=out_channels,
            label_dim=label_dim,
            **model_kwargs,
        )
        self.init_kwargs = dict(
            img_resolution=img_resolution,
            img_channels=img_channels,
            label_dim=label_dim,
            use_fp16=use_fp16,
            model_type=model_type,
            **model_kwargs,
        )

    def coefficients(self, sigma: Tensor) -> tuple[Tensor | float, Tensor, Tensor | float, Tensor]:
        """(c_skip, c_out, c_in, c_noise) for float32 sigma [N, 1, 1, 1]."""
        raise NotImplementedError

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        class_labels: Tensor | None = None,
        force_fp32: bool = False,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Denoised images, float32.

        x               [N, C, R, R]     noisy images (any float dtype)
        sigma           [] or [N]        noise level in image units
        class_labels    [N, label_dim]   one-hot; None means all zeros
        augment_labels  [N, augment_dim] labels of the augmentation pipe, in training only
        """
        return self.decode(self.encode(x, sigma, class_labels, force_fp32, augment_labels))

    def encode(
        self,
        x: Tensor,
        sigma: Tensor,
        class_labels: Tensor | None = None,
        force_fp32: bool = False,
        augment_labels: Tensor | None = None,
    ) -> Encoding:
        """The encoder's half of `forward`."""
        x = x.to(torch.float32)
        sigma = torch.as_tensor(sigma, device=x.device).to(torch.float32).reshape(-1, 1, 1, 1)
        if self.label_dim == 0:
            class_labels = None
        elif class_labels is None:
            class_labels = torch.zeros(1, self.label_dim, device=x.device)
        else:
            class_labels = class_labels.to(torch.float32).reshape(-1, self.label_dim)
        half = self.use_fp16 and not force_fp32 and x.device.type == "cuda"
        _, _, c_in, c_noise = self.coefficients(sigma)
        scaled = (c_in * x).to(torch.float16 if half else torch.float32)
        return Encoding(
            x, sigma, *self.model.encode(scaled, c_noise.flatten(), class_labels, augment_labels)
        )

    def decode(self, encoding: Encoding) -> Tensor:
        """The decoder's half of `forward`: denoised images, float32 [N, C, R, R]."""
        c_skip, c_out, _, _ = self.coefficients(encoding.sigma)
        out = self.model.decode(encoding.skips, encoding.emb)[:, : self.img_channels]
        return c_skip * encoding.x + c_out * out.to(torch.float32)

    def compile(self, *args, **kwargs) -> None:
        """Compile both halves by torch.compile. A guidance on the network's own encoder calls them
        too."""
        self.encode = torch.compile(self.encode, *args, **kwargs)
        self.decode = torch.compile(self.decode, *args, **kwargs)

    def with_fp16(self, use_fp16: bool) -> "Preconditioner":
        """The same network, its weights in memory once, run in half precision on GPUs or not."""
        if use_fp16 == self.use_fp16:
            return self
        other = copy.copy(self)
        other.use_fp16 = use_fp16
        return other

    def round_sigma(self, sigma) -> Tensor:
        """The nearest noise level the network was trained on, same shape and dtype."""
        return torch.as_tensor(sigma)


class EDMPrecond(Preconditioner):
    """Karras et al. 2022, Eq. 7 and table 1, column "Ours"; `sigma_data` is the standard deviation
    of the images."""

    def __init__(
        self,
        img_resolution,
        img_channels,
        label_dim=0,
        use_fp16=False,
        sigma_min=0,
        sigma_max=math.inf,
        sigma_data=0.5,
        model_type="DhariwalUNet",
        **model_kwargs,
    ):
        super().__init__(
            img_resolution,
            img_channels,
            label_dim,
            use_fp16,
            model_type,
            img_channels,
            **model_kwargs,
        )
        self.sigma_min, self.sigma_max, self.sigma_data = sigma_min, sigma_max, sigma_data
        self.init_kwargs |= dict(sigma_min=sigma_min, sigma_max=sigma_max, sigma_data=sigma_data)

    def coefficients(self, sigma):
        variance = sigma**2 + self.sigma_data**2
        return (
            self.sigma_data**2 / variance,
            sigma * self.sigma_data / variance.sqrt(),
            1 / variance.sqrt(),
            sigma.log() / 4,
        )


class VPPrecond(Preconditioner):
    """Variance-preserving (DDPM++ of Song et al. 2021); Karras et al. 2022, table 1, column
    "VP"."""

    def __init__(
        self,
        img_resolution,
        img_channels,
        label_dim=0,
        use_fp16=False,
        beta_d=19.9,
        beta_min=0.1,
        M=1000,
        epsilon_t=1e-5,
        model_type="SongUNet",
        **model_kwargs,
    ):
        super().__init__(
            img_resolution,
            img_channels,
            label_dim,
            use_fp16,
            model_type,
            img_channels,
            **model_kwargs,
        )
        self.beta_d, self.beta_min, self.M = beta_d, beta_min, M
        ends = torch.tensor([epsilon_t, 1.0], device="cpu")
        self.sigma_min, self.sigma_max = self.sigma(ends).tolist()
        self.init_kwargs |= dict(beta_d=beta_d, beta_min=beta_min, M=M, epsilon_t=epsilon_t)

    def coefficients(self, sigma):
        return 1.0, -sigma, 1 / (sigma**2 + 1).sqrt(), (self.M - 1) * self.sigma_inv(sigma)

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level at VP time t, like t."""
        return (0.5 * self.beta_d * t**2 + self.beta_min * t).exp().sub(1).sqrt()

    def sigma_inv(self, sigma: Tensor) -> Tensor:
        """VP time at a noise level."""
        log_variance = (1 + sigma**2).log()
        return (
            (self.beta_min**2 + 2 * self.beta_d * log_variance).sqrt() - self.beta_min
        ) / self.beta_d


class VEPrecond(Preconditioner):
    """Variance-exploding (NCSN++ of Song et al. 2021); Karras et al. 2022, table 1, column "VE"."""

    def __init__(
        self,
        img_resolution,
        img_channels,
        label_dim=0,
        use_fp16=False,
        sigma_min=0.02,
        sigma_max=100,
        model_type="SongUNet",
        **model_kwargs,
    ):
        super().__init__(
            img_resolution,
            img_channels,
            label_dim,
            use_fp16,
            model_type,
            img_channels,
            **model_kwargs,
        )
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.init_kwargs |= dict(sigma_min=sigma_min, sigma_max=sigma_max)

    def coefficients(self, sigma):
        return 1.0, sigma, 1.0, (0.5 * sigma).log()


class iDDPMPrecond(Preconditioner):
    """Improved DDPM (Nichol & Dhariwal 2021), discrete noise levels u_j; Karras et al. 2022, table
    1, column "iDDPM".

    The U-Net also predicts a variance (channels C..2C-1), which the samplers of EDM do not use.
    """

    def __init__(
        self,
        img_resolution,
        img_channels,
        label_dim=0,
        use_fp16=False,
        C_1=0.001,
        C_2=0.008,
        M=1000,
        model_type="DhariwalUNet",
        **model_kwargs,
    ):
        super().__init__(
            img_resolution,
            img_channels,
            label_dim,
            use_fp16,
            model_type,
            2 * img_channels,
            **model_kwargs,
        )
        self.M = M
        levels = iddpm_noise_levels(M, C_1, C_2, torch.float32)
        self.register_buffer("u", levels)
        self.sigma_min, self.sigma_max = float(levels[M - 1]), float(levels[0])
        self.init_kwargs |= dict(C_1=C_1, C_2=C_2, M=M)

    def coefficients(self, sigma):
        index = self.round_sigma(sigma, return_index=True)
        return 1.0, -sigma, 1 / (sigma**2 + 1).sqrt(), self.M - 1 - index.to(torch.float32)

    def round_sigma(self, sigma, return_index: bool = False) -> Tensor:
        """The nearest noise level u_j, or its index j; same shape as sigma."""
        sigma = torch.as_tensor(sigma)
        u = self.u.to(sigma.device)
        index = (
            (sigma.to(torch.float32).reshape(-1, 1) - u).abs().argmin(dim=1).reshape(sigma.shape)
        )
        return index if return_index else u[index].to(sigma.dtype)


def iddpm_noise_levels(M: int, C_1: float, C_2: float, dtype: torch.dtype) -> Tensor:
    """Decreasing noise levels u_0 .. u_M = 0 of iDDPM on the CPU, [M + 1]; Karras et al. 2022,
    table 1.

    alpha_bar is float32 whatever the dtype of the recursion, as in the published code.
    """
    alpha_bar = (0.5 * math.pi * torch.arange(M + 1, device="cpu") / M / (C_2 + 1)).sin() ** 2
    u = torch.zeros(M + 1, dtype=dtype, device="cpu")
    for j in range(M, 0, -1):
        u[j - 1] = ((u[j] ** 2 + 1) / (alpha_bar[j - 1] / alpha_bar[j]).clip(min=C_1) - 1).sqrt()
    return u


PRECONDITIONERS = {c.__name__: c for c in (EDMPrecond, VPPrecond, VEPrecond, iDDPMPrecond)}
