"""Classifier-free guidance of a class-conditional network as in DiT, with a scale that may depend
on the timestep.

Ho & Salimans 2022; Peebles & Xie 2023 (DiT). Kim et al. 2023 sample DiT-XL/2-G++ with scale 1.25 at
t > 200 and 3.0 below:

    model = ClassifierFreeGuidance(dit, branched_scale(1.25, 3.0, 200))
    steer = dg.cond_fn(discriminator, time_min=100 / 999)
    create_diffusion(respacing="250").p_sample_loop(model, noise, cond_fn=steer,
    clip_denoised=False, model_kwargs={"y": y})
"""

from collections.abc import Callable

import torch
from torch import Tensor


class ClassifierFreeGuidance:
    """`model(x, t, y)` whose first channels are guided away from the unconditional prediction.

    model       called once per step with x, t and y of twice the batch, and of the batch where the
                scale is 1 for all of it; gives [N or 2N, C or 2C, H, W]
    scale       1 is no guidance; a number, or a function of the timesteps t [N] -> [N]
    null_class  the class number that stands for none
    channels    how many of the first channels are guided. DiT guides 3 of 4 latent channels, a
                leftover from RGB images, and its published numbers are made so; the fourth one and
                the learned variance stay conditional
    """

    def __init__(
        self,
        model,
        scale: float | Callable[[Tensor], Tensor],
        null_class: int = 1000,
        channels: int = 3,
    ):
        self.model, self.scale, self.null_class, self.channels = model, scale, null_class, channels

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """x [N, C, H, W], t [N] original timesteps, y [N] class numbers -> [N, C or 2C, H, W]."""
        scale = (
            self.scale(t).reshape(-1, 1, 1, 1)
            if callable(self.scale)
            else torch.tensor(self.scale, device=x.device)
        )
        if (scale == 1).all():
            return self.model(x, t, y)
        classes = torch.cat([y, torch.full_like(y, self.null_class)])  # [2N]
        output = self.model(torch.cat([x, x]), torch.cat([t, t]), classes)
        conditional, unconditional = output.chunk(2)
        guided, free = conditional[:, : self.channels], unconditional[:, : self.channels]
        return torch.cat(
            [free + scale.to(x.dtype) * (guided - free), conditional[:, self.channels :]], dim=1
        )


def branched_scale(above: float, below: float, branch_time: int) -> Callable[[Tensor], Tensor]:
    """The scale `above` at timesteps t > branch_time and `below` at the others, per sample."""
    return lambda t: torch.where(t > branch_time, above, below)
