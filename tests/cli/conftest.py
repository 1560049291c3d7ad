"""The commands run on what a whole pipeline left."""

from tests.pipeline.conftest import Made as Made
from tests.pipeline.conftest import made as made
