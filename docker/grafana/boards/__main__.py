"""`python -m boards FOLDER...`: writes every dashboard into each folder, a file named as its uid ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from boards import batches, overview, security


def main(folders: list[str]) -> None:
    """Writes them."""
    for name, board in (("overview", overview), ("batches", batches), ("security", security)):
        made = cast("dict[str, Any]", json.loads(JSONEncoder().encode(board.build().build())))
        for number, panel in enumerate(made["panels"], 1):  # what links and alerts name a panel by
            panel["id"] = number
            panel.get("options", {}).pop("footer", None)  # of tables in Grafanas before 12.2
        for variable in made["templating"]["list"]:  # the SDK writes these, which intervals alone have, for all
            for key in ("auto", "auto_count", "auto_min"):
                variable.pop(key, None)
        for folder in folders:
            Path(folder, f"{name}.json").write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
