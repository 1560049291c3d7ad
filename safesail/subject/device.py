"""Which device the subject model runs on."""


def choose_device(name: str) -> str:
    """`auto` becomes the fastest device that is here; any other name is taken as it is."""
    if name != "auto":
        return name
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
