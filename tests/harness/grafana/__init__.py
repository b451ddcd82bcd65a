"""Grafana's own published types and units, which dashboards are held against. There is no Grafana in it.

Its packages are installed once, in a cache outside of the checkout; it takes Node and npm.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.harness.toolcache import cached, scratch

PACKAGES = {
    "@grafana/data": "13.2.2",
    "@grafana/schema": "13.2.3",
    "esbuild": "0.25.0",
    "react": "19.2.0",
    "react-dom": "19.2.0",
    "typescript": "5.9.3",
}
UNITS = Path(__file__).with_name("units.mjs")
PANELS = {"logs": "Logs", "stat": "Stat", "table": "Table", "text": "Text", "timeseries": "TimeSeries"}
WITH_FIELDS = {"table", "timeseries"}
# The published types have enums, which literals do not fit; what counts is their values.
PLAIN = """
type Plain<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T
  : T extends (infer E)[] ? Plain<E>[] : { [K in keyof T]: Plain<T[K]> };
"""


def type_errors(dashboards: dict[str, Any]) -> list[str]:
    """What TypeScript says of dashboards as Grafana's types have them: their own shape, and each panel's options."""
    lines = ["import type { Dashboard } from '@grafana/schema';", PLAIN]
    for kind, name in PANELS.items():
        types = f"@grafana/schema/dist/esm/raw/composable/{kind}/panelcfg/x/{name}PanelCfg_types.gen"
        lines.append(f"import type * as {kind} from '{types}';")
    for name, dashboard in dashboards.items():
        lines.append(f"export const {name}: Plain<Dashboard> = {json.dumps(dashboard, indent=1)};")
        for panel in dashboard["panels"]:
            lines += _panel(f"{name}{panel['id']}", panel)
    with tempfile.TemporaryDirectory(prefix="types-", dir=_installed()) as folder:
        source = Path(folder, "dashboards.ts")
        source.write_text("\n".join(lines))
        options = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "esnext"]
        command = ["npx", "--no-install", "tsc", *options, "--moduleResolution", "bundler", str(source)]
        done = subprocess.run(command, check=False, cwd=_installed(), capture_output=True, text=True)
    assert done.returncode in (0, 1, 2), done.stderr
    found = done.stdout.splitlines()
    assert bool(found) == bool(done.returncode), done.stderr
    return found


def unknown_units(units: Iterable[str]) -> list[str]:
    """Those that Grafana has no format for."""
    folder = _installed()
    bundle = folder / f"units-{hashlib.sha256(UNITS.read_bytes()).hexdigest()[:8]}.cjs"
    if not bundle.exists():
        with tempfile.TemporaryDirectory(prefix="units-", dir=folder) as work:
            source = Path(work, "units.mjs")
            source.write_bytes(UNITS.read_bytes())
            out = Path(work, "units.cjs")
            options = ["--bundle", "--platform=node", "--log-level=error", f"--outfile={out}"]
            # It is written for a browser, and asks which one while it loads.
            banner = "--banner:js=globalThis.navigator ??= { userAgent: 'node', platform: 'node', languages: ['en'] };"
            _run(["npx", "--no-install", "esbuild", str(source), *options, banner], folder)
            out.rename(bundle)
    answer: list[str] = json.loads(_run(["node", str(bundle), *units], folder).splitlines()[-1])
    return answer


def _panel(name: str, panel: dict[str, Any]) -> list[str]:
    kind = panel["type"]
    lines = []
    if kind in PANELS:
        lines.append(f"export const {name}_options: Plain<{kind}.Options> = {json.dumps(panel.get('options'))};")
    custom = panel.get("fieldConfig", {}).get("defaults", {}).get("custom")
    if kind in WITH_FIELDS and custom is not None:
        lines.append(f"export const {name}_fields: Plain<Partial<{kind}.FieldConfig>> = {json.dumps(custom)};")
    return lines


def _installed() -> Path:
    """The folder whose node_modules has them."""
    wanted = json.dumps({"name": "grafana-checks", "private": True, "dependencies": PACKAGES})
    folder = cached("grafana", wanted.encode())
    if not folder.exists():
        with scratch() as work:
            made = work / "made"
            made.mkdir()
            (made / "package.json").write_text(wanted)
            _run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"], made)
            made.rename(folder)
    return folder


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout
