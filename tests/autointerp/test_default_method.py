"""Settings, pipelines and commands name one default way of scoring."""

from click.testing import CliRunner

from safesail.autointerp.config import AutointerpConfig, ScoringConfig
from safesail.cli.explaining import explain, score
from safesail.domain.methods import DEFAULT_METHOD


def test_every_way_in_scores_by_the_same_default() -> None:
    assert ScoringConfig().method == DEFAULT_METHOD
    assert AutointerpConfig.model_validate({}).scoring.method == DEFAULT_METHOD
    for command in (explain, score):
        assert next(p.default for p in command.params if p.name == "method") == DEFAULT_METHOD
        shown = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
        assert f"default: {DEFAULT_METHOD}" in shown
