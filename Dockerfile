# Two images: `server`, and `executor`, which holds python3 and the executor's zipapp alone.
#
#   docker build --target server -t jobworker:VERSION .
#   docker build --target executor -t jobworker-executor:1 .
#
# Package indexes other than pip's own: --secret id=pip,src=pip.conf (it is in no layer).
ARG BASE_IMAGE=python:3.13-slim-trixie

# Nothing but the executor's sources reach the executor's image: it stays the same while the server's versions change.
FROM ${BASE_IMAGE} AS zipapp
COPY service/jobworker/executor /src/executor
RUN mkdir /out && \
    python3 -I -B -c "import sys; sys.path.insert(0, '/src'); from executor.bundle import build; build('/out/executor.pyz')" && \
    touch -d @0 /out/executor.pyz


FROM ${BASE_IMAGE} AS build
WORKDIR /src
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/jobworker
COPY docker/build.lock docker/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    /build/bin/pip install --quiet --require-hashes --requirement docker/build.lock
COPY docker/server.lock docker/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    /build/bin/pip wheel --quiet --require-hashes --only-binary :all: --wheel-dir /wheels \
        --requirement docker/server.lock && \
    /build/bin/pip --python /opt/jobworker/bin/python install --quiet --no-index --no-deps /wheels/*.whl
COPY pyproject.toml build_protos.py README.md LICENSE ./
COPY pki pki
COPY service service
RUN /build/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir /wheel . && \
    /build/bin/pip --python /opt/jobworker/bin/python install --quiet --no-index --no-deps /wheel/*.whl && \
    install -d -o 10001 -g 10001 -m 0700 /folders/var/lib/jobworker /folders/var/log/jobworker && \
    install -d -o 10001 -g 10001 -m 0711 /folders/etc/jobworker/pki && \
    install -d -o 10001 -g 10001 -m 0755 /folders/run/jobworker


FROM ${BASE_IMAGE} AS executor
LABEL org.opencontainers.image.title="jobworker executor" \
      org.opencontainers.image.description="The parent of a jobworker's jobs: python3 and one zipapp." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN echo 'executor:x:10002:10002:executor:/home/jobs:/bin/sh' >> /etc/passwd && \
    echo 'executor:x:10002:' >> /etc/group && \
    install -d -o 10002 -g 10002 -m 0700 /home/jobs
COPY --from=zipapp /out/executor.pyz /usr/local/lib/jobworker/executor.pyz
USER 10002:10002
WORKDIR /tmp
STOPSIGNAL SIGTERM
# PID 1: it reaps what its jobs leave behind, and everything ends with it.
ENTRYPOINT ["/usr/bin/env", "python3", "-I", "-S", "/usr/local/lib/jobworker/executor.pyz"]
# Jobs start in /home/jobs, which needs a volume, or a tmpfs, where the root file system is read-only.
CMD ["--connect", "/run/jobworker/executor.sock", "--work", "/home/jobs"]


FROM ${BASE_IMAGE} AS server
ARG VERSION=dev
LABEL org.opencontainers.image.title="jobworker" \
      org.opencontainers.image.description="Batches of Linux commands over gRPC and REST with mutual TLS." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
RUN echo 'jobworker:x:10001:10001:jobworker:/nonexistent:/usr/sbin/nologin' >> /etc/passwd && \
    echo 'jobworker:x:10001:' >> /etc/group
# With their owner and modes, which a new named volume takes over.
COPY --from=build /folders /
COPY --from=build /opt/jobworker /opt/jobworker
ENV PATH=/opt/jobworker/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    JOBWORKER_PATHS__DATA=/var/lib/jobworker \
    JOBWORKER_PATHS__LOGS=/var/log/jobworker \
    JOBWORKER_PATHS__PKI=/etc/jobworker/pki \
    JOBWORKER_PATHS__RUN=/run/jobworker \
    JOBWORKER_EXECUTOR__SOCKET=/run/jobworker/executor.sock \
    JOBWORKER_EXECUTOR__UID=10002 \
    JOBWORKER_GRPC__HOST=0.0.0.0 \
    JOBWORKER_REST__HOST=0.0.0.0 \
    JOBWORKER_METRICS__HOST=0.0.0.0
USER 10001:10001
WORKDIR /var/lib/jobworker
EXPOSE 50051 8443 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s CMD ["jobworker", "healthcheck"]
ENTRYPOINT ["jobworker"]
CMD ["server"]
