"""Fail unless the summary of a repeated demo says that nothing was spent, and that the scores beat chance."""

import json
import sys
from pathlib import Path

summary = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
faults = [
    fault
    for fault, wrong in (
        (f"tokens_spent is {summary['tokens_spent']}, not 0", summary["tokens_spent"] != 0),
        (f"features_scored is {summary['features_scored']}, below 60", summary["features_scored"] < 60),
        (
            f"mean score {summary['mean_score']} is not 0.15 above chance {summary['chance_score']}",
            summary["mean_score"] - summary["chance_score"] < 0.15,
        ),
        (f"took {summary['seconds']} s, over 120", summary["seconds"] > 120),
    )
    if wrong
]
sys.exit("\n".join(faults) or 0)
