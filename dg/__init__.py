"""Discriminator Guidance (Kim et al., ICML 2023): the method on top of `edm` and `guided_diffusion`."""
