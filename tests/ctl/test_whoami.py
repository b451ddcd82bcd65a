"""`jobctl whoami`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from jobpki.directory import issue
from jobpki.users import Role
from tests.harness.admin import Admin
from tests.harness.jobctl import Jobctl
from tests.harness.pki import LOW_COST
from tests.harness.service import Service
from tests.harness.wait import until

UNKNOWN = "the user rob has the role ci, which auth.roles does not have, and so no rights"


def test_it_shows_user_role_rights_certificate_and_token(jobctl: Jobctl, shared_service: Service) -> None:
    certificate = x509.load_pem_x509_certificate((shared_service.pki / "clients/alice/tls.crt").read_bytes())
    end = certificate.not_valid_after_utc
    lines = dict(line.split(": ", 1) for line in jobctl("whoami").stdout.decode().splitlines())
    lines = {name: words.strip() for name, words in lines.items()}
    assert lines.pop("token").startswith("until 20")
    assert lines == {
        "user": "alice",
        "role": "operator",
        "rights": "cancel_own, read_own, submit",
        "certificate": f"serial {certificate.serial_number:x}, until {end:%Y-%m-%d %H:%M:%S}Z",
    }


def test_a_role_of_the_configuration_is_live(service: Service, tmp_path: Path) -> None:
    made = issue(service.pki, "rob", role=Role.parse("ci"), now=datetime.now(UTC), cost=LOW_COST)
    service.passwords |= made.passwords
    assert made.notes == ["rob may do what auth.roles of the service gives the role ci, and no more"]
    admin, rob = Admin(service), Jobctl(service, tmp_path / "cache", user="rob").login()
    assert list(admin.status().problems) == [UNKNOWN]
    until(lambda: UNKNOWN in service.output(), "the log tells of it")
    assert b"none" in rob("whoami").stdout
    assert rob("submit", "true").returncode == 3
    root = Jobctl(service, tmp_path / "root", user="admin").login()
    assert root("admin", "config", "set", "auth.roles=ci=submit,read_own").returncode == 0
    assert rob.json("whoami")["rights"] == ["read_own", "submit"]
    batch = rob.id_of("true")
    assert rob("wait", batch).returncode == 0
    assert rob("cancel", batch).returncode == 3
    assert list(admin.status().problems) == []
    values = {entry["key"]: entry["value"] for entry in root.json("admin", "config", "show")["entries"]}
    assert values["auth.roles"] == "ci=submit,read_own"
    assert json.loads((service.data / "config.json").read_text())["updates"]["auth.roles"] == {
        "ci": ["submit", "read_own"]
    }
