from pathlib import Path

import pytest
import torch
from torch import Tensor

from safesail.domain.records import SubjectInfo
from safesail.errors import ConfigError, SaeError
from safesail.sae.checkpoint import open_checkpoint
from safesail.sae.checkpoint_config import CheckpointConfig
from safesail.sae.load import open_sae

HOOK = "blocks.1.hook_mlp_out"
X = torch.tensor([[2.0, 1.0]])


def content() -> dict[str, Tensor]:
    """Two components; the second one's features are x0, x1, x0 + x1 and -x0, about b_pre = (1, 0)."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]])
    return {
        "pre_encoder_bias._bias_reference": torch.tensor([[9.0, 9.0], [1.0, 0.0]]),
        "encoder.weight": torch.stack([torch.zeros(4, 2), weight]),
        "encoder.bias": torch.tensor([[0.0] * 4, [0.5, 0.0, 0.0, 0.0]]),
    }


def write(folder: Path, tensors: dict[str, Tensor], config: str) -> Path:
    torch.save(tensors, folder / "layer1.pt")
    (folder / "layer1.yaml").write_text(config, encoding="utf-8")
    return folder / "layer1.pt"


def test_topk_by_hand(tmp_path: Path) -> None:
    path = write(tmp_path, content(), f"{{hook: {HOOK}, k: 2, component: 1}}")
    sae = open_sae(str(path), model=SubjectInfo("tiny", "f", 2, 2))
    # x - b_pre = (1, 1): pre = 1.5, 1, 2, -1; the two largest stay.
    assert sae.encode(X).dense(0, 1).tolist() == [[1.5, 0, 2, 0]]
    assert (sae.info.sae_id, sae.info.source, sae.info.k) == ("layer1", "layer1.pt", 2)
    assert (sae.info.d_in, sae.info.d_sae, sae.info.hook) == (2, 4, HOOK)
    assert sae.decoder is None
    with pytest.raises(SaeError, match="has an encoder only"):
        sae.decode(sae.encode(X))


def test_topk_sets_negative_ones_to_zero(tmp_path: Path) -> None:
    sae = open_checkpoint(
        write(tmp_path, content(), ""), model=None, config=CheckpointConfig(hook=HOOK, k=4, component=1)
    )
    assert sae.encode(X).dense(0, 1).tolist() == [[1.5, 1, 2, 0]]


def test_relu_and_jumprelu_by_hand(tmp_path: Path) -> None:
    path = write(tmp_path, content(), "")
    relu = CheckpointConfig(hook=HOOK, architecture="relu", component=1)
    assert open_checkpoint(path, model=None, config=relu).encode(X).dense(0, 1).tolist() == [[1.5, 1, 2, 0]]
    jump = CheckpointConfig(hook=HOOK, architecture="jumprelu", component=1)
    with pytest.raises(SaeError, match=r"has no encoder\.theta, which a jumprelu checkpoint needs"):
        open_checkpoint(path, model=None, config=jump)
    path = write(tmp_path, content() | {"encoder.theta": torch.full((2, 4), 1.2)}, "")
    assert open_checkpoint(path, model=None, config=jump).encode(X).dense(0, 1).tolist() == [[1.5, 0, 2, 0]]


def test_a_transposed_weight_is_the_same(tmp_path: Path) -> None:
    tensors = content()
    config = CheckpointConfig(hook=HOOK, k=2, component=1)
    straight = open_checkpoint(write(tmp_path, tensors, ""), model=None, config=config)
    tensors["encoder.weight"] = tensors["encoder.weight"].transpose(1, 2).contiguous()
    turned = open_checkpoint(write(tmp_path, tensors, ""), model=None, config=config)
    torch.testing.assert_close(turned.encode(X).value, straight.encode(X).value)
    assert turned.info.sha256 == straight.info.sha256


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    config = CheckpointConfig(hook=HOOK, k=2, component=1)
    with pytest.raises(SaeError, match="component 5 is not there"):
        open_checkpoint(
            write(tmp_path, content(), ""), model=None, config=config.model_copy(update={"component": 5})
        )
    odd = content() | {"encoder.bias": torch.zeros(2, 3)}
    with pytest.raises(SaeError, match=r"\[4, 2\] does not fit biases of 2 and 3"):
        open_checkpoint(write(tmp_path, odd, ""), model=None, config=config)
    broken = content()
    broken["encoder.bias"][1, 0] = torch.nan
    with pytest.raises(SaeError, match=r"encoder\.bias holds NaN"):
        open_checkpoint(write(tmp_path, broken, ""), model=None, config=config)
    with pytest.raises(SaeError, match="is no Safe-SAIL checkpoint; it needs the keys"):
        open_checkpoint(write(tmp_path, {"weight": torch.zeros(2)}, ""), model=None, config=config)


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    config = CheckpointConfig(hook=HOOK, k=2)
    path = write(tmp_path, content(), "")
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(SaeError, match="is damaged or no plain torch checkpoint"):
            open_checkpoint(path, model=None, config=config)
    with pytest.raises(SaeError, match="no checkpoint at"):
        open_sae(str(tmp_path / "absent.pt"), model=None)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(tmp_path / "ran"),))

    torch.save({"encoder.weight": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(SaeError, match="is damaged or no plain torch checkpoint"):
        open_checkpoint(tmp_path / "evil.pt", model=None, config=CheckpointConfig(hook=HOOK, k=2))
    assert not (tmp_path / "ran").exists()


def test_the_file_beside_it_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="architecture topk needs k"):
        open_sae(str(write(tmp_path, content(), f"hook: {HOOK}")), model=None)
    (tmp_path / "layer1.yaml").unlink()
    with pytest.raises(ConfigError, match=r"no file at .*layer1\.yaml"):
        open_sae(str(tmp_path / "layer1.pt"), model=None)
