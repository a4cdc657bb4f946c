"""Models that guided diffusion is compared against."""
