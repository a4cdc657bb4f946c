"""Models besides EDM that can be sampled and guided: DDPM and ADM, DiT, a VAE."""
