"""What a network predicts, in terms of the denoised image: one table for every parametrisation.

A noisy image is x = scale * (x_0 + sigma z). EDM has scale 1; a variance-preserving (VP) process
sqrt(alpha_bar), with sigma^2 = (1 - alpha_bar) / alpha_bar; a flow x = (1 - t) x_0 + t z the scale
1 - t, with sigma = t / (1 - t).
"""

import torch
from torch import Tensor

TINY = torch.finfo(torch.float32).tiny  # keeps levels without any image finite


def per_image(value: Tensor | float, x: Tensor) -> Tensor:
    """A scalar or one value per sample, shaped to broadcast against images x [N, C, H, W]."""
    return torch.as_tensor(value, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1)


# (skip, out) with denoised = skip * x / scale + out * prediction, of sigma and sigma_data.
_TABLE = {
    # grad_x log p(x), at scale 1
    "score": lambda sigma, data: (torch.ones_like(sigma), sigma**2),
    "denoised": lambda sigma, data: (torch.zeros_like(sigma), torch.ones_like(sigma)),
    # the noise z (Ho et al. 2020)
    "epsilon": lambda sigma, data: (torch.ones_like(sigma), -sigma),
    # sqrt(alpha_bar) z - sqrt(1 - alpha_bar) x_0 (Salimans & Ho 2022)
    "v_prediction": lambda sigma, data: (1 / (1 + sigma**2), -sigma * (1 + sigma**2).rsqrt()),
    # the velocity z - x_0 of a straight path (Lipman et al. 2023, Liu et al. 2023)
    "flow_prediction": lambda sigma, data: (1 / (1 + sigma), -sigma / (1 + sigma)),
    # EDM's raw output F (Karras et al. 2022, Eq. 7)
    "edm": lambda sigma, data: (
        data**2 / (sigma**2 + data**2),
        sigma * data * (sigma**2 + data**2).rsqrt(),
    ),
}
_TABLE["sample"] = _TABLE["denoised"]  # as diffusers calls it
PREDICTIONS = tuple(_TABLE)


def coefficients(
    prediction_type: str, sigma: Tensor, sigma_data: float = 0.5
) -> tuple[Tensor, Tensor]:
    """(skip, out), each of the shape of sigma: denoised = skip * x / scale + out * prediction.

    prediction_type  one of `PREDICTIONS`; "score" stands for that at scale 1
    sigma_data       of EDM's preconditioning; only "edm" depends on it

    ValueError for another prediction type.
    """
    if prediction_type not in _TABLE:
        raise ValueError(f"prediction_type is {prediction_type!r}; use {' or '.join(PREDICTIONS)}")
    return _TABLE[prediction_type](sigma, sigma_data)


def noise_level(
    sigma: Tensor | float | None = None,
    alpha_bar: Tensor | float | None = None,
    flow_time: Tensor | float | None = None,
    device=None,
) -> tuple[Tensor, Tensor | None]:
    """(sigma, scale) of x = scale * (x_0 + sigma z), from one of three; scale None stands for 1.

    sigma      [] or [N]  of images at EDM scale
    alpha_bar  [] or [N]  of images at VP scale, from 0 to 1
    flow_time  [] or [N]  of x = (1 - t) x_0 + t z, from 0 to 1

    Numbers become float64; tensors of floats keep their precision. ValueError unless exactly one is
    given, and for values out of range.
    """
    given = {"sigma": sigma, "alpha_bar": alpha_bar, "flow_time": flow_time}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            f"the noise level is given by {' and '.join(given) or 'nothing'}; give one of sigma, "
            "alpha_bar and flow_time"
        )
    ((name, value),) = given.items()
    value = torch.as_tensor(value, device=device)
    if not isinstance(given[name], Tensor) or not value.is_floating_point():
        value = value.to(torch.float64)
    if not ((value >= 0) & (value <= (torch.inf if name == "sigma" else 1))).all():
        bound = "numbers of at least 0" if name == "sigma" else "numbers from 0 to 1"
        raise ValueError(f"{name} is {value.tolist()}; give {bound}")
    if name == "sigma":
        return value, None
    if name == "flow_time":
        scale = (1 - value).clamp(min=TINY)
        return value / scale, scale
    value = value.clamp(min=TINY)
    return ((1 - value) / value).sqrt(), value.sqrt()


def denoised(
    prediction: Tensor,
    x: Tensor,
    sigma: Tensor,
    scale: Tensor | None,
    prediction_type: str,
    sigma_data: float = 0.5,
) -> Tensor:
    """The denoised image [N, C, H, W] that a prediction at x stands for; see `coefficients`."""
    skip, out = coefficients(prediction_type, sigma, sigma_data)
    if scale is not None:
        skip = skip / scale  # finite where nothing is left of the image, for v and for flows
        out = out * scale if prediction_type == "score" else out
    return per_image(skip, x) * x + per_image(out, x) * prediction


def changed(
    correction: Tensor,
    sigma: Tensor,
    scale: Tensor | None,
    prediction_type: str,
    sigma_data: float = 0.5,
) -> Tensor:
    """The change of a prediction that raises the denoised image by `correction`; 0 where sigma
    is 0."""
    _, out = coefficients(prediction_type, sigma, sigma_data)
    if scale is not None and prediction_type == "score":
        out = scale * out  # by the chain rule
    return correction / per_image(out.masked_fill(out == 0, torch.inf), correction)
