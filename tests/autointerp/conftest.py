"""A tiny subject model with SAEs, and what a whole pipeline left."""

from tests.harvest.conftest import saes as saes
from tests.harvest.conftest import subject as subject
from tests.harvest.conftest import text_file as text_file
from tests.pipeline.conftest import Made as Made
from tests.pipeline.conftest import made as made
