"""EDM (Karras et al. 2022): networks, preconditioning, samplers, loss and checkpoints. It knows no
discriminator."""

from edm.ablation import ablation_sampler
from edm.augment import AugmentPipe
from edm.checkpoint import load_network, save_network
from edm.guidance import Guidance
from edm.loss import DenoisingLoss, EDMLoss, VELoss, VPLoss
from edm.networks import DhariwalUNet, SongUNet
from edm.parametrisations import PREDICTIONS
from edm.precond import EDMPrecond, Preconditioner, VEPrecond, VPPrecond, iDDPMPrecond
from edm.random import StackedRandomGenerator
from edm.sampler import edm_sampler, heun_step

__all__ = [
    "PREDICTIONS",
    "AugmentPipe",
    "DenoisingLoss",
    "DhariwalUNet",
    "EDMLoss",
    "EDMPrecond",
    "Guidance",
    "Preconditioner",
    "SongUNet",
    "StackedRandomGenerator",
    "VELoss",
    "VEPrecond",
    "VPLoss",
    "VPPrecond",
    "ablation_sampler",
    "edm_sampler",
    "heun_step",
    "iDDPMPrecond",
    "load_network",
    "save_network",
]
