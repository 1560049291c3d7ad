"""Names for Arrow's types: pyarrow ships no annotations, so that to the type checker they are Any."""

from typing import Any

import pyarrow.compute

ArrowTable = Any
"""`pyarrow.Table`."""

ArrowBatch = Any
"""`pyarrow.RecordBatch`."""

ArrowSchema = Any
"""`pyarrow.Schema`."""

compute: Any = pyarrow.compute
"""Arrow's functions, most of which are made at import and unknown to the type checker."""
