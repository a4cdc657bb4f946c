"""The public files that are known by a short name: addresses, licences, and SHA-256 where one is
known."""

from dataclasses import dataclass

EDM = "https://nvlabs-fi-cdn.nvidia.com/edm/"
ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/"
INCEPTION = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan3/versions/1/files/metrics/inception-2015-12-05.pkl"
FIDELITY = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
VGG = "https://download.pytorch.org/models/vgg16-397923af.pth"
CLIP = (
    "https://openaipublic.azureedge.net/clip/models/{}/{}.pt"  # the SHA-256 is part of the address
)
DINOV2 = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{0}14/dinov2_vit{0}14_pretrain.pth"
DIT = "https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-{0}x{0}.pt"
VAE = "https://huggingface.co/stabilityai/sd-vae-ft-{}/resolve/main/diffusion_pytorch_model.safetensors"
DRIVE = "https://drive.google.com/drive/folders/"
# A commit of the repository, whose files stay as they are.
RESAMPLING = "https://raw.githubusercontent.com/UCSB-NLP-Chang/diffusion_resampling/02a01f31b7d0b0de4ac36140562cd40d95b91dc9/benchmarks/checkpoints/discriminator/discriminator_{}.pt"

SHA256 = {
    "edm-cifar10-32x32-uncond-vp": "4d5dcc1f1d0d41c8934ad21626eeddbdc0460182becf9fc059a0631b1eedb4da",
    "adm-256-uncond": "a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1",
    "inception-torch-fidelity": "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    "clip-vit-b-32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "clip-vit-l-14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "sd-vae-ft-mse": "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
    "dg-cifar10-classifier": "cda3eec9bdb3003682fb63ffd84c8525cc9de6320c0910edc8fc0ab886aa28f9",
    "dg-cifar10-uncond-discriminator": "71f8a9f6fb74ee21214db6b50e7cf47261290485b0cb22fb268fd9820a6a5e88",
}


@dataclass(frozen=True)
class Source:
    """Where a file comes from.

    name     file name in the cache folder
    url      of the file, or of the Google Drive folder that holds it
    licence  in words
    sha256   64 hex digits, None where nobody has published them
    member   on Google Drive: the pattern that exactly one file of the folder matches
    """

    name: str
    url: str
    licence: str
    sha256: str | None = None
    member: str | None = None


NVIDIA, OPENAI, META = "CC BY-NC-SA 4.0 (NVIDIA)", "MIT (OpenAI)", "CC BY-NC 4.0 (Meta)"
UNKNOWN = "unknown, see {}"

# The files of the authors of DG, by short name: folder on Google Drive / pattern of the file in it.
AUTHORS = {
    "dg-cifar10-true-data": "18qh5QGP2gLgVjr0dh2g8dfBYZoGC0uVT/true_data.npz",
    "dg-cifar10-true-data-label": "18qh5QGP2gLgVjr0dh2g8dfBYZoGC0uVT/true_data_label.npz",
    "dg-cifar10-statistics": "1xTdHz2fe71yvO2YpVfsY3sgH5Df7_b6y/*.npz",
    "dg-cifar10-classifier": "1gb68C13-QOt8yA6ZnnS6G5pVIlPO7j_y/32x32_classifier.pt",
    "dg-cifar10-uncond-discriminator": "1Mf3F1yGfWT8bO0_iOBX-PWG3O-OLROE2/discriminator_60.pt",
    "dg-cifar10-cond-discriminator": "1P1u7cz7kY1BJDPVrPNiFcksy_HCHY_bI/discriminator_250.pt",
    "dg-imagenet256-classifier": "1yxjvfIW6HvLSJHACkC5-5U46Mny81SSI/*.pt",
    "dg-imagenet256-discriminator": "1-2ytbvo7yG2X3Z65XNugBhPRKangvZgg/discriminator_7.pt",
}


def _catalogue():
    return {
        short: Source(short + suffix, url, licence, SHA256.get(short), *member)
        for entries in (
            *(_edm(), _adm(), _feature_networks(), _latent_diffusion(), _authors()),
            _resampling(),
        )
        for short, suffix, url, licence, *member in entries
    }


def _edm():
    """Networks and statistics of EDM: (short name, suffix, address, licence), as of all that
    follow."""
    names = ["cifar10-32x32-uncond", "cifar10-32x32-cond", "ffhq-64x64-uncond"]
    names += ["afhqv2-64x64-uncond"]
    networks = [f"edm-{name}-{kind}" for name in names for kind in ("vp", "ve")]
    for short in (*networks, "edm-imagenet-64x64-cond-adm"):
        yield short, ".pkl", f"{EDM}pretrained/{short}.pkl", NVIDIA
    for name in ("cifar10-32x32-uncond-vp", "cifar10-32x32-uncond-ve", "imagenet-64x64-cond-adm"):
        yield f"baseline-{name}", ".pkl", f"{EDM}pretrained/baseline/baseline-{name}.pkl", NVIDIA
    data = ("cifar10-32x32", "ffhq-64x64", "afhqv2-64x64", "imagenet-64x64")
    for name in (*data, "imagenet-64x64-baseline"):
        yield f"fid-ref-{name}", ".npz", f"{EDM}fid-refs/{name}.npz", NVIDIA


def _adm():
    for size in (64, 128, 256, 512):
        yield f"adm-{size}", ".pt", f"{ADM}{size}x{size}_diffusion.pt", OPENAI
        yield f"adm-{size}-classifier", ".pt", f"{ADM}{size}x{size}_classifier.pt", OPENAI
    images = f"{ADM}ref_batches/imagenet/256/VIRTUAL_imagenet256_labeled.npz"
    yield "adm-ref-imagenet-256", ".npz", images, OPENAI
    yield "adm-256-uncond", ".pt", f"{ADM}256x256_diffusion_uncond.pt", OPENAI


def _feature_networks():
    stylegan, fidelity = (
        "https://github.com/NVlabs/stylegan3",
        "https://github.com/toshas/torch-fidelity",
    )
    yield "inception-2015-12-05", ".pkl", INCEPTION, UNKNOWN.format(stylegan)
    yield "inception-torch-fidelity", ".pth", FIDELITY, UNKNOWN.format(fidelity)
    yield "vgg16", ".pth", VGG, "BSD-3-Clause (torchvision)"
    for short, model in (("clip-vit-b-32", "ViT-B-32"), ("clip-vit-l-14", "ViT-L-14")):
        yield short, ".pt", CLIP.format(SHA256[short], model), OPENAI
    for size in "sblg":
        yield f"dinov2-vit-{size}-14", ".pth", DINOV2.format(size), "Apache-2.0 (Meta)"


def _latent_diffusion():
    for size in (256, 512):
        yield f"dit-xl-2-{size}", ".pt", DIT.format(size), META
    for kind in ("mse", "ema"):
        page = f"https://huggingface.co/stabilityai/sd-vae-ft-{kind}"
        yield f"sd-vae-ft-{kind}", ".safetensors", VAE.format(kind), UNKNOWN.format(page)


def _authors():
    """The files of Kim et al. 2023, with the member of the folder."""
    licence = UNKNOWN.format("https://github.com/alsdudrla10/DG")
    for short, place in AUTHORS.items():
        folder, member = place.split("/")
        yield short, member[member.rindex(".") :], DRIVE + folder, licence, member


def _resampling():
    """The discriminators of Liu et al. 2024 (particle resampling)."""
    licence = UNKNOWN.format("https://github.com/UCSB-NLP-Chang/diffusion_resampling")
    for data, file in (("ffhq-64", "ffhq"), ("imagenet-64", "imagenet")):
        yield f"resampling-{data}-discriminator", ".pt", RESAMPLING.format(file), licence


CATALOGUE = _catalogue()
