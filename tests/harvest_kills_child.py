"""What a killed harvest's process needs; imported once, by the server that forks them."""

from collections.abc import Sequence

import sae_lens as sae_lens
import torch

from safesail.harvest.engine import Loaded
from safesail.harvest.run import run_harvest as run_harvest
from safesail.sae.load import open_sae
from safesail.sae.saelens import SaeLensWrapped as SaeLensWrapped
from safesail.subject.loading import ModelConfig, load_subject


def load(model: str, saes: Sequence[str]) -> Loaded:
    """The model and its SAEs, on one thread."""
    torch.set_num_threads(1)
    subject = load_subject(ModelConfig(model))
    return subject, [open_sae(sae, model=subject.info) for sae in saes]
