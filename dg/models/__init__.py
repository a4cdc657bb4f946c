"""What can be sampled and guided besides EDM: DDPM and ADM, DiT, a VAE."""
