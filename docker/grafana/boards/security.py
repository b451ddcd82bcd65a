"""Security: who logs in, who is refused, which connections fail, and what expires."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models

from boards.parts import BLUE, GREEN, ORANGE, RED, SERVICE, STREAM, Query, board, figure, graph, lines, rate, row

_REFUSALS = f'{SERVICE}, grpc_code=~"Unauthenticated|PermissionDenied"'
_EXPIRY = [(None, RED), (7 * 86400, ORANGE), (30 * 86400, GREEN)]


def build() -> dashboard.Dashboard:
    """The dashboard."""
    made = board(
        "Jobworker / Security",
        "jobworker-security",
        "Logins, refusals, connections and certificates. No user's name is in a metric: the log lines below have them.",
    )
    made = row(made, "In the time shown", _figures())
    made = row(made, "Logins and refusals", _refusals())
    made = row(made, "Connections and certificates", _connections())
    return row(
        made,
        "Log",
        [
            lines(
                "Refusals and warnings",
                "What the service logged at warning or above, and everything about logins: user, address and reason "
                "stand in each line's fields.",
                f'{STREAM} | level=~"warning|error|critical" or rpc=~".*Login"',
            )
        ],
    )


def _figures() -> list[Builder[models.Panel]]:
    return [
        figure(
            "Logins",
            "Logins that were accepted.",
            Query(f'sum(increase(jobworker_logins_total{{{SERVICE}, outcome="accepted"}}[$__range]))'),
            unit="short", steps=[(None, BLUE)], decimals=0,
        ),
        figure(
            "Logins refused",
            "Wrong passwords, unknown users, certificates of another user.",
            Query(f'sum(increase(jobworker_logins_total{{{SERVICE}, outcome!="accepted"}}[$__range]))'),
            unit="short", steps=[(None, GREEN), (10, ORANGE), (100, RED)], decimals=0,
        ),
        figure(
            "Calls refused",
            "Calls without a valid token or certificate, or without the role they take.",
            Query(f"sum(increase(jobworker_denied_total{{{SERVICE}}}[$__range]))"),
            unit="short", steps=[(None, GREEN), (10, ORANGE), (100, RED)], decimals=0,
        ),
        figure(
            "Handshakes failed",
            "Connections that came without a certificate of this CA, or were cut.",
            Query(f"sum(increase(jobworker_tls_handshake_failures_total{{{SERVICE}}}[$__range]))"),
            unit="short", steps=[(None, GREEN), (10, ORANGE)], decimals=0,
        ),
        figure(
            "Server certificate",
            "Time until it expires; then no client connects.",
            Query(
                f'min(jobworker_certificate_not_after_timestamp_seconds{{{SERVICE}, certificate="server"}}) - time()'
            ),
            unit="s", steps=_EXPIRY,
        ),
        figure(
            "CA certificate",
            "Time until it expires; then nothing that it signed is valid.",
            Query(f'min(jobworker_certificate_not_after_timestamp_seconds{{{SERVICE}, certificate="ca"}}) - time()'),
            unit="s", steps=_EXPIRY,
        ),
    ]  # fmt: skip


def _refusals() -> list[Builder[models.Panel]]:
    return [
        graph(
            "Logins by outcome",
            "A second. More than 30 refused within five minutes raise an alert.",
            Query(rate("jobworker_logins_total", by="outcome"), "{{outcome}}"),
            unit="ops", stacked=True,
        ),
        graph(
            "Refusals by reason",
            "The reasons are those that docs/api.md lists for ErrorInfo, in lower case.",
            Query(rate("jobworker_denied_total", by="reason"), "{{reason}}"),
            unit="ops", stacked=True,
        ),
        graph(
            "Refused calls by method",
            "Unauthenticated and PermissionDenied.",
            Query(rate("grpc_server_handled_total", by="grpc_method, grpc_code", selector=_REFUSALS),
                  "{{grpc_method}} {{grpc_code}}"),
            unit="reqps", stacked=True,
        ),
        graph(
            "Logins refused within five minutes",
            "What the alert JobworkerLoginAttack looks at.",
            Query(f"jobworker:logins_refused:increase5m{{{SERVICE}}}", "{{instance}}"),
            unit="short", width=12, steps=[(None, GREEN), (30, RED)],
        ),
        graph(
            "Administration",
            "Calls of AdminService by method: who stops the service or changes its configuration stands in the log.",
            Query(
                rate("grpc_server_handled_total", by="grpc_method",
                     selector=f'{SERVICE}, grpc_service="jobworker.v1.AdminService"'),
                "{{grpc_method}}",
            ),
            unit="reqps", width=12, stacked=True,
        ),
    ]  # fmt: skip


def _connections() -> list[Builder[models.Panel]]:
    return [
        graph(
            "Connections",
            "New ones that made the TLS handshake, a second, by listener.",
            Query(rate("jobworker_tls_connections_total", by="listener"), "{{listener}}"),
            unit="ops", width=6,
        ),
        graph(
            "Handshakes failed",
            "A second, by listener; over gRPC they cannot be seen.",
            Query(rate("jobworker_tls_handshake_failures_total", by="listener"), "{{listener}}"),
            unit="ops", width=6, steps=[(None, GREEN), (1, ORANGE)],
        ),
        graph(
            "Certificates expire in",
            "A renewed one jumps up; alerts come at 30 days and at 7.",
            Query(f"jobworker_certificate_not_after_timestamp_seconds{{{SERVICE}}} - time()", "{{certificate}}"),
            unit="s", width=6, steps=_EXPIRY,
        ),
        graph(
            "Files of the PKI",
            "1 while the newest content is in force; 0: it was refused, and the one before it is.",
            Query(f"min by (file) (jobworker_pki_last_reload_successful{{{SERVICE}}})", "{{file}}"),
            unit="none", width=6, most=1,
        ),
    ]  # fmt: skip
