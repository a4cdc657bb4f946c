"""The public files that are known by a short name: addresses, licences, and SHA-256 where one is known."""

from dataclasses import dataclass

EDM = "https://nvlabs-fi-cdn.nvidia.com/edm/"
ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/"
INCEPTION = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan3/versions/1/files/metrics/inception-2015-12-05.pkl"
FIDELITY = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
VGG = "https://download.pytorch.org/models/vgg16-397923af.pth"
CLIP = (
    "https://openaipublic.azureedge.net/clip/models/{}/{}.pt"  # the SHA-256 is part of the address
)
DIT = "https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-{0}x{0}.pt"
VAE = "https://huggingface.co/stabilityai/sd-vae-ft-{}/resolve/main/diffusion_pytorch_model.safetensors"
DRIVE = "https://drive.google.com/drive/folders/"

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


def _catalogue():
    nvidia, openai, meta = "CC BY-NC-SA 4.0 (NVIDIA)", "MIT (OpenAI)", "CC BY-NC 4.0 (Meta)"
    files = {}

    def add(short, suffix, url, licence, member=None):
        files[short] = Source(short + suffix, url, licence, SHA256.get(short), member)

    for data in (
        "cifar10-32x32-uncond",
        "cifar10-32x32-cond",
        "ffhq-64x64-uncond",
        "afhqv2-64x64-uncond",
    ):
        for kind in ("vp", "ve"):
            add(f"edm-{data}-{kind}", ".pkl", f"{EDM}pretrained/edm-{data}-{kind}.pkl", nvidia)
    add(
        "edm-imagenet-64x64-cond-adm",
        ".pkl",
        f"{EDM}pretrained/edm-imagenet-64x64-cond-adm.pkl",
        nvidia,
    )
    for network in (
        "cifar10-32x32-uncond-vp",
        "cifar10-32x32-uncond-ve",
        "imagenet-64x64-cond-adm",
    ):
        add(
            f"baseline-{network}",
            ".pkl",
            f"{EDM}pretrained/baseline/baseline-{network}.pkl",
            nvidia,
        )
    for data in (
        "cifar10-32x32",
        "ffhq-64x64",
        "afhqv2-64x64",
        "imagenet-64x64",
        "imagenet-64x64-baseline",
    ):
        add(f"fid-ref-{data}", ".npz", f"{EDM}fid-refs/{data}.npz", nvidia)
    for size in (64, 128, 256, 512):
        add(f"adm-{size}", ".pt", f"{ADM}{size}x{size}_diffusion.pt", openai)
        add(f"adm-{size}-classifier", ".pt", f"{ADM}{size}x{size}_classifier.pt", openai)
    add(
        "adm-ref-imagenet-256",
        ".npz",
        f"{ADM}ref_batches/imagenet/256/VIRTUAL_imagenet256_labeled.npz",
        openai,
    )
    add("adm-256-uncond", ".pt", f"{ADM}256x256_diffusion_uncond.pt", openai)
    add(
        "inception-2015-12-05",
        ".pkl",
        INCEPTION,
        "unknown, see https://github.com/NVlabs/stylegan3",
    )
    add(
        "inception-torch-fidelity",
        ".pth",
        FIDELITY,
        "unknown, see https://github.com/toshas/torch-fidelity",
    )
    add("vgg16", ".pth", VGG, "BSD-3-Clause (torchvision)")
    for short, model in (("clip-vit-b-32", "ViT-B-32"), ("clip-vit-l-14", "ViT-L-14")):
        add(short, ".pt", CLIP.format(SHA256[short], model), "MIT (OpenAI)")
    for size in (256, 512):
        add(f"dit-xl-2-{size}", ".pt", DIT.format(size), meta)
    for kind in ("mse", "ema"):
        page = f"https://huggingface.co/stabilityai/sd-vae-ft-{kind}"
        add(f"sd-vae-ft-{kind}", ".safetensors", VAE.format(kind), f"unknown, see {page}")
    for short, member, folder in (
        ("dg-cifar10-true-data", "true_data.npz", "18qh5QGP2gLgVjr0dh2g8dfBYZoGC0uVT"),
        ("dg-cifar10-true-data-label", "true_data_label.npz", "18qh5QGP2gLgVjr0dh2g8dfBYZoGC0uVT"),
        ("dg-cifar10-statistics", "*.npz", "1xTdHz2fe71yvO2YpVfsY3sgH5Df7_b6y"),
        ("dg-cifar10-classifier", "32x32_classifier.pt", "1gb68C13-QOt8yA6ZnnS6G5pVIlPO7j_y"),
        (
            "dg-cifar10-uncond-discriminator",
            "discriminator_60.pt",
            "1Mf3F1yGfWT8bO0_iOBX-PWG3O-OLROE2",
        ),
        (
            "dg-cifar10-cond-discriminator",
            "discriminator_250.pt",
            "1P1u7cz7kY1BJDPVrPNiFcksy_HCHY_bI",
        ),
        ("dg-imagenet256-classifier", "*.pt", "1yxjvfIW6HvLSJHACkC5-5U46Mny81SSI"),
        ("dg-imagenet256-discriminator", "discriminator_7.pt", "1-2ytbvo7yG2X3Z65XNugBhPRKangvZgg"),
    ):
        suffix = member[member.rindex(".") :]
        add(short, suffix, DRIVE + folder, "unknown, see https://github.com/alsdudrla10/DG", member)
    return files


CATALOGUE = _catalogue()
