"""Samplers beside EDM's, on the same denoiser, guidance and log density ratio.

restart      goes back up and down again, without training (Xu et al. 2023)
rejection    accepts every step by the log ratio, else goes back (DiffRS, Na et al. 2024)
particles    resamples groups by the change of the log ratio (Liu et al. 2024)
acceptance   accepts or resamples finished images by their log ratios
cost         counts what an image costs, so that samplers are compared at equal compute

AC-Sampler (Park et al. 2026), Langevin steps accepted by the ratio, is left out: the description at
hand does not tell its acceptance. docs/samplers.md says what an exact step would need.
"""
