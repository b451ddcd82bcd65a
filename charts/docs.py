"""`python charts/docs.py`: writes what of the chart is made from other files, so that it is never stale.

- the table of values in jobworker/README.md, from the comments in values.yaml;
- `config` in values.schema.json and files/live-keys.yaml, from the service's own configuration.

`--check` writes nothing and fails when something is stale. It knows nothing of Helm or a cluster.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from jobworker.server.config.keys import KEYS
from jobworker.server.config.model import Settings

CHART = Path(__file__).parent / "jobworker"
BEGIN, END = "<!-- made by charts/docs.py -->\n", "<!-- end of what is made -->\n"
# What the chart itself decides: its mounts, ports and probes rest on these.
OWN = {
    "paths", "executor", "jobs.path", "jobs.isolation", "jobs.readable", "jobs.writable", "jobs.user", "jobs.processes",
    "grpc.host", "grpc.port", "rest.host", "rest.port", "metrics.enabled", "metrics.host", "metrics.port",
}  # fmt: skip
_KEY = re.compile(r"( *)([A-Za-z0-9]+):")
_PYDANTIC = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}


def rows(values: str) -> Iterator[tuple[str, str, str]]:
    """(key, default as JSON, description) of each key with a `# --` comment."""
    defaults = yaml.safe_load(values)
    path: list[tuple[int, str]] = []
    words = ""
    for line in values.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            words = stripped[5:]
        elif (found := _KEY.match(line)) is not None and not stripped.startswith("#"):
            indent = len(found[1])
            path = [*(p for p in path if p[0] < indent), (indent, found[2])]
            if words:
                keys = [key for _, key in path]
                value = defaults
                for key in keys:
                    value = value[key]
                yield ".".join(keys), json.dumps(value), words
                words = ""


def table(values: str) -> str:
    """The rows as Markdown."""
    lines = ["| key | default | what it is |", "|---|---|---|"]
    lines += [f"| `{key}` | `{default}` | {words} |" for key, default, words in rows(values)]
    return "\n".join(lines) + "\n"


def config_schema() -> dict[str, Any]:
    """What may stand under `config`."""
    model = Settings.model_json_schema()
    properties: dict[str, Any] = {}
    for name, field in model["properties"].items():
        if name in OWN:
            continue
        reference = field.get("$ref") or next((o["$ref"] for o in field.get("allOf", ()) if "$ref" in o), None)
        if reference is None:
            properties[name] = _rules(field)
            continue
        section = model["$defs"][reference.rpartition("/")[2]]
        inner = {k: _rules(v) for k, v in section["properties"].items() if f"{name}.{k}" not in OWN}
        if inner:
            properties[name] = {"type": "object", "additionalProperties": False, "properties": inner}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _rules(field: dict[str, Any]) -> dict[str, Any]:
    """The rules of a key, without what is for people; TOML has no null, the configuration says "none"."""
    if "anyOf" in field:
        return {"anyOf": [{"const": "none"} if o.get("type") == "null" else _rules(o) for o in field["anyOf"]]}
    kept = ("type", "enum", "const", "minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum",
            "exclusiveMaximum", "minItems", "maxItems")  # fmt: skip
    rules = {name: field[name] for name in kept if name in field}
    rules |= {json_name: field[name] for name, json_name in _PYDANTIC.items() if name in field}
    if "items" in field:
        rules["items"] = _rules(field["items"])
    if isinstance(field.get("additionalProperties"), dict):
        rules["additionalProperties"] = _rules(field["additionalProperties"])
    return rules


def made() -> dict[Path, str]:
    """Each file and what it is to hold."""
    readme, schema = CHART / "README.md", CHART / "values.schema.json"
    before, _, rest = readme.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    rules = json.loads(schema.read_text())
    rules["properties"]["config"] = config_schema()
    live = "# Keys of the configuration that take effect at once; made by charts/docs.py.\n"
    live += "".join(f"- {key.path}\n" for key in KEYS.values() if key.live)
    return {
        readme: before + BEGIN + table((CHART / "values.yaml").read_text()) + END + after,
        schema: json.dumps(rules, indent=2) + "\n",
        CHART / "files/live-keys.yaml": live,
    }


def main() -> int:
    """Writes, or with `--check` compares; returns the exit status."""
    stale = {path: text for path, text in made().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        if "--check" in sys.argv:
            print(f"{path} is stale: run `python charts/docs.py`")
        else:
            path.write_text(text)
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
