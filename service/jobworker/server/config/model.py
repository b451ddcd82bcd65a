"""Every key of the configuration, typed, with its unit in its name, and what it is for. Knows no files: where values
come from is `sources.py`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from jobworker.server.config.roles import Roles
from jobworker.server.config.values import (
    LIVE,
    MOST,
    RESTART,
    Bytes,
    BytesOrNone,
    Count,
    CountOrNone,
    Float,
    Int,
    OrNone,
    PathList,
    PauseSeconds,
    Port,
    Seconds,
    Section,
)


class Paths(Section):
    """Folders; relative ones are taken from the working directory."""

    data: Path = Field(
        Path("var/data"),
        description="Batches, results and logs of jobs. A local file system.",
        json_schema_extra=RESTART,
    )
    logs: Path = Field(
        Path("var/logs"), description="The service's own log, and its audit log.", json_schema_extra=RESTART
    )
    pki: Path = Field(
        Path("var/pki"), description="Certificates, keys and users, as jobpki makes them.", json_schema_extra=RESTART
    )
    run: Path = Field(Path("var/run"), description="What lives as long as the service runs.", json_schema_extra=RESTART)
    work: Path = Field(
        Path("var/work"),
        description="Work folders of batches, where their jobs start and may write; each goes with its batch.",
        json_schema_extra=RESTART,
    )


class Grpc(Section):
    """The gRPC listener."""

    host: str = Field(
        "127.0.0.1",
        description="The address to listen on; 0.0.0.0 or :: for every one.",
        json_schema_extra=RESTART,
        min_length=1,
    )
    port: Port = Field(50051, description="0 takes a free one.", json_schema_extra=RESTART)
    max_message_bytes: Annotated[Int, Field(ge=65536, le=1 << 30)] = Field(
        4 << 20, description="The largest request message.", json_schema_extra=RESTART
    )
    connections: Count = Field(
        4000,
        description="Connections at a time; fewer where the process may not have four times as many files open "
        "(RLIMIT_NOFILE). A quarter of them, at the most, without a call so far, half of these of one address.",
        json_schema_extra=RESTART,
    )
    connections_per_client: Count = Field(
        100,
        description="Connections of one user at a time; one more takes the place of the one that is idle longest.",
        json_schema_extra=RESTART,
    )
    handshake_seconds: Seconds = Field(
        10, description="How long the handshake of a connection may take.", json_schema_extra=RESTART
    )
    stall_seconds: Seconds = Field(
        300, description="A follower that takes nothing for so long is cut off.", json_schema_extra=LIVE
    )
    drain_seconds: PauseSeconds = Field(
        10, description="How long calls under way may take when the server stops.", json_schema_extra=LIVE
    )


class Rest(Section):
    """The REST/JSON listener: the same service over HTTPS."""

    enabled: bool = Field(True, description="Whether there is one.", json_schema_extra=RESTART)
    host: str = Field(
        "127.0.0.1",
        description="The address to listen on; 0.0.0.0 or :: for every one.",
        json_schema_extra=RESTART,
        min_length=1,
    )
    port: Port = Field(8443, description="0 takes a free one.", json_schema_extra=RESTART)
    max_body_bytes: Annotated[Int, Field(ge=65536, le=1 << 30)] = Field(
        6 << 20,
        description="The largest request body, or line of one that is a stream, decompressed. JSON is larger than the "
        "same message over gRPC, base64 by a third.",
        json_schema_extra=RESTART,
    )
    body_seconds: Seconds = Field(
        60,
        description="How long a request body may take to come (of one that is a stream: each piece), and an answer to "
        "go.",
        json_schema_extra=RESTART,
    )
    idle_seconds: Seconds = Field(
        60,
        description="How long a connection may be silent, and a request's header may take.",
        json_schema_extra=RESTART,
    )
    connections: Count = Field(
        2000,
        description="Connections at a time; fewer where the process may not have eight times as many files open "
        "(RLIMIT_NOFILE). Beside these half as many that have not made their handshake; half of these of one "
        "address.",
        json_schema_extra=RESTART,
    )
    connections_per_client: Count = Field(
        100,
        description="Connections of one certificate at a time; one more takes the place of the one that is idle "
        "longest.",
        json_schema_extra=RESTART,
    )
    handshake_seconds: Seconds = Field(
        10, description="How long a connection may take until its handshake is made.", json_schema_extra=RESTART
    )


class Metrics(Section):
    """Figures and probes over plain HTTP: `/metrics`, `/livez`, `/readyz`."""

    enabled: bool = Field(True, description="Whether they are served.", json_schema_extra=RESTART)
    host: str = Field(
        "127.0.0.1",
        description="The address to listen on; 0.0.0.0 or :: for every one. Whoever reaches it can read the figures: "
        "they tell how busy the service is, and nothing of its users or jobs.",
        json_schema_extra=RESTART,
        min_length=1,
    )
    port: Port = Field(9464, description="0 takes a free one.", json_schema_extra=RESTART)


class Auth(Section):
    """Who is let in."""

    token_lifetime_seconds: Seconds = Field(
        3600, description="How long a token works; of those that are given out from now on.", json_schema_extra=LIVE
    )
    roles: Roles = Field(
        default_factory=dict,
        description="Roles beside viewer, operator and admin, which stay: names, each with a list of rights, as in "
        '`ci = ["submit", "read_own", "cancel_own"]` of a table `[auth.roles]`. In the environment '
        "`ci=submit,read_own:auditor=read_all`. See [admin.md](admin.md#roles-of-your-own).",
        json_schema_extra={**LIVE, "default": "none but the three"},
    )


class Jobs(Section):
    """How jobs are run. What a job gets is fixed when it starts; a running one keeps it."""

    running: Count = Field(2048, description="Jobs running at a time, of all users.", json_schema_extra=LIVE)
    parallelism: Count = Field(
        default_factory=lambda: max(4, os.cpu_count() or 1),
        description="Jobs of one batch running at a time, where it says nothing; of batches that come from now on.",
        json_schema_extra={**LIVE, "default": "the number of CPUs, at least 4"},
    )
    timeout_seconds: Annotated[Seconds | None, OrNone] = Field(
        None, description="A job's timeout where it says none.", json_schema_extra=LIVE
    )
    grace_seconds: PauseSeconds = Field(5, description="Between SIGTERM and SIGKILL.", json_schema_extra=LIVE)
    linger_seconds: PauseSeconds = Field(
        1, description="How long output may stay open once a job's first process has ended.", json_schema_extra=LIVE
    )
    log_bytes: Annotated[Bytes | None, OrNone] = Field(
        64 << 30, description="What the logs of one job may have at the most.", json_schema_extra=LIVE
    )
    log_policy: Literal["end", "truncate_tail", "truncate_head"] = Field(
        "end",
        description="What becomes of a job that prints more, where it does not say. end: it ends. truncate_tail: the "
        "rest is thrown away. truncate_head: the last bytes are kept, and older ones given back to the disk.",
        json_schema_extra=LIVE,
    )
    path: Annotated[str | None, OrNone] = Field(
        None, description="The jobs' PATH, where the executor's default does not do.", json_schema_extra=RESTART
    )
    isolation: Literal["auto", "none"] = Field(
        "auto",
        description="auto: namespaces of their own, else Landlock; where the kernel has neither, the service does not "
        "start. none: jobs may do whatever the user they run as may; see sandbox.md.",
        json_schema_extra=RESTART,
    )
    readable: PathList = Field(
        (),
        description="What jobs see of this machine's files, read-only, beside the system's programs, libraries and "
        "settings. Absolute paths; in a variable with colons between them.",
        json_schema_extra={**RESTART, "default": "nothing else"},
    )
    writable: PathList = Field(
        (),
        description="What they may write as well: checkouts, caches, results. No folder of the service's.",
        json_schema_extra={**RESTART, "default": "the batch's work folder, and /tmp"},
    )
    user: Annotated[str | None, OrNone] = Field(
        None,
        description="Whom jobs run as where root runs the service: an account, UID or UID:GID; none: nobody.",
        json_schema_extra=RESTART,
    )
    uids: Annotated[Annotated[str, StringConstraints(pattern=r"^[0-9]+-[0-9]+$")] | None, OrNone] = Field(
        None,
        description="FIRST-LAST, user ids of this machine that nobody has: where root runs the service, the jobs of "
        "each of its users run as one of these, so that they can neither read nor signal those of another; see "
        "sandbox.md. None: all run as `jobs.user`.",
        json_schema_extra=RESTART,
    )
    processes: Annotated[Count | None, OrNone] = Field(
        None,
        description="Processes and threads of all jobs together; none: 7/8 of what the machine allows. The job that "
        "holds most is ended before the others have no room.",
        json_schema_extra=RESTART,
    )


class Executor(Section):
    """Where the executor comes from, when the server is started by itself (`jobworker server`, in a container say)."""

    socket: Annotated[Path | None, OrNone] = Field(
        None,
        description="The server listens here for its executor, which is started with `--connect` and this path. Jobs "
        "must not be able to write into its folder. None: an inherited socket.",
        json_schema_extra=RESTART,
    )
    uid: Annotated[Int | None, Field(ge=0, le=(1 << 32) - 2), OrNone] = Field(
        None,
        description="The user that the executor runs as; nobody else's connection to the socket is taken. None: the "
        "server's own user.",
        json_schema_extra=RESTART,
    )


class Limits(Section):
    """What is taken in at the most. What was accepted before stays accepted."""

    batch_jobs: Count = Field(1_000_000, description="Jobs in one batch.", json_schema_extra=LIVE)
    user_unfinished_jobs: Count = Field(
        2_000_000, description="A user's jobs that are not final.", json_schema_extra=LIVE
    )
    user_unfinished_batches: Count = Field(
        20_000, description="A user's batches that are not final.", json_schema_extra=LIVE
    )
    user_calls: Count = Field(
        1000, description="A user's calls under way, over gRPC and REST, streams included.", json_schema_extra=LIVE
    )
    user_streams: Count = Field(
        500,
        description="Of these, calls that last as long as the client likes: followers, and waits for a batch.",
        json_schema_extra=LIVE,
    )
    user_uploads: Count = Field(
        100,
        description="Of these, streams of jobs on their way in (ExecuteJobs) at a time; more wait for their turn.",
        json_schema_extra=LIVE,
    )
    upload_idle_seconds: Seconds = Field(
        60,
        description="How long a request over gRPC may take to come, of one that is a stream each message.",
        json_schema_extra=LIVE,
    )
    held_bytes: Annotated[Int, Field(ge=1 << 20, le=MOST)] = Field(
        128 << 20,
        description="What is held in memory for all clients until they take it. When it is used up, readers wait, and "
        "streams are ended whose client has taken nothing for a second.",
        json_schema_extra=LIVE,
    )
    free_disk_bytes: Annotated[Int, Field(ge=0, le=MOST)] = Field(
        256 << 20,
        description="No batch is accepted when less is free on the data folder's file system.",
        json_schema_extra=LIVE,
    )
    user_stored_bytes: BytesOrNone = Field(
        None,
        description="What a user's batches may take on the disk, finished or not, in lengths of files: when it is used "
        "up, no more are accepted, and what runs goes on. None: no limit.",
        json_schema_extra=LIVE,
    )
    stored_bytes: BytesOrNone = Field(None, description="The same of all batches together.", json_schema_extra=LIVE)
    user_stored_files: CountOrNone = Field(
        None,
        description="The same in files and folders: three for a batch, and one for each of its jobs, as a rule.",
        json_schema_extra=LIVE,
    )
    stored_files: CountOrNone = Field(None, description="The same of all batches together.", json_schema_extra=LIVE)


class Retention(Section):
    """How long what is finished is kept, and how much of it. Unfinished batches are never removed."""

    finished_seconds: Annotated[Seconds | None, OrNone] = Field(
        None,
        description="A finished batch, its results and its logs are removed so long after its end; none: never. Under "
        "a day, a repeated submission may find its batch removed, and run it again.",
        json_schema_extra=LIVE,
    )
    user_stored_bytes: BytesOrNone = Field(
        None,
        description="While a user's batches take more, unfinished ones counted in, the finished one is removed that "
        "ended first. Less than limits.user_stored_bytes, where that is given.",
        json_schema_extra=LIVE,
    )
    stored_bytes: BytesOrNone = Field(None, description="The same of all batches together.", json_schema_extra=LIVE)
    user_stored_files: CountOrNone = Field(None, description="The same in files and folders.", json_schema_extra=LIVE)
    stored_files: CountOrNone = Field(None, description="The same of all batches together.", json_schema_extra=LIVE)


class Logs(Section):
    """The service's own log, `service.jsonl` in `paths.logs`."""

    max_bytes: Annotated[Int, Field(ge=1 << 16, le=MOST)] = Field(
        64 << 20,
        description="When the file is as large, it becomes service.jsonl.1, that one service.jsonl.2, and so on.",
        json_schema_extra=LIVE,
    )
    files: Annotated[Int, Field(ge=1, le=10_000)] = Field(
        8, description="How many older files are kept.", json_schema_extra=LIVE
    )
    jobs_per_batch: Annotated[Int, Field(ge=0, le=1_000_000_000)] = Field(
        100,
        description="The ends of so many jobs of a batch, the first, are told at level info, and as many more that "
        "failed; the others at debug.",
        json_schema_extra=LIVE,
    )


class Audit(Section):
    """The audit log, `audit.jsonl` in `paths.logs`: who did what, from where; see logs.md."""

    max_bytes: Annotated[Int, Field(ge=1 << 16, le=MOST)] = Field(
        64 << 20,
        description="When the file is as large, it becomes audit.jsonl.1, that one audit.jsonl.2, and so on.",
        json_schema_extra=LIVE,
    )
    files: Annotated[Int, Field(ge=1, le=10_000)] = Field(
        32, description="How many older files are kept.", json_schema_extra=LIVE
    )
    sync: Literal["group", "call"] = Field(
        "group",
        description="Which lines are on disk before their calls are answered. group: all but those of submissions and "
        "cancellations, which are written by then, and on disk within a second. call: those as well; batches of one "
        "job take longer by a sync of the disk.",
        json_schema_extra=LIVE,
    )


class Traces(Section):
    """Traces, exported by OTLP as the OTEL_* variables of the environment say; see traces.md."""

    exporter: Literal["auto", "otlp", "none"] = Field(
        "auto",
        description="auto is otlp where OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set, or "
        "OTEL_TRACES_EXPORTER says so.",
        json_schema_extra=RESTART,
    )
    sample_ratio: Annotated[Annotated[Float, Field(ge=0, le=1, allow_inf_nan=False)] | None, OrNone] = Field(
        None,
        description="The share of traces that is kept; none: what OTEL_TRACES_SAMPLER says, or all.",
        json_schema_extra=LIVE,
    )
    jobs_per_batch: Annotated[Int, Field(ge=0, le=1_000_000)] = Field(
        500,
        description="The first so many jobs of a batch have spans, and as many more that failed.",
        json_schema_extra=LIVE,
    )


class Settings(BaseModel):
    """The whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="What the service's own log tells.", json_schema_extra=LIVE
    )
    paths: Paths = Paths()
    grpc: Grpc = Grpc()
    rest: Rest = Rest()
    metrics: Metrics = Metrics()
    auth: Auth = Auth()
    jobs: Jobs = Jobs()
    executor: Executor = Executor()
    limits: Limits = Limits()
    retention: Retention = Retention()
    logs: Logs = Logs()
    audit: Audit = Audit()
    traces: Traces = Traces()
