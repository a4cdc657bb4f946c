"""Calibration of a discriminator: its logit over a temperature that depends on the noise level.

A logit that is k times too large makes guidance k times too strong. The temperature is fitted on
held-out images, level by level (`dg.evaluation.diagnosis`), and is linear in VP time in between.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dg import vp


@dataclass(frozen=True)
class Calibration:
    """Temperatures of one head by VP time, constant beyond the first and the last time.

    times         at least two, ascending
    temperatures  positive, one each
    """

    times: tuple[float, ...]
    temperatures: tuple[float, ...]

    def __post_init__(self):
        for name in ("times", "temperatures"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        times, temperatures = torch.tensor(self.times), torch.tensor(self.temperatures)
        sound = len(times) >= 2 and len(times) == len(temperatures) and (times.diff() > 0).all()
        if not sound or not ((temperatures > 0) & temperatures.isfinite()).all():
            raise ValueError(
                f"a calibration has the times {list(self.times)} and the temperatures "
                f"{list(self.temperatures)}; give two or more ascending times, and a positive "
                "temperature each"
            )

    def temperature(self, sigma: Tensor) -> Tensor:
        """Temperatures float64 at noise levels sigma, of the same shape."""
        tau, _ = vp.from_sigma(sigma.to(torch.float64))
        times, values = (
            torch.tensor(one, dtype=torch.float64, device=tau.device)
            for one in (self.times, self.temperatures)
        )
        after = torch.searchsorted(times, tau).clamp(1, len(times) - 1)
        share = (tau - times[after - 1]) / (times[after] - times[after - 1])
        return torch.lerp(values[after - 1], values[after], share.clamp(0, 1))
