# One image for the feeder, both functions and the command beads-dispatch; the manifest names what it runs.
#   docker build -t registry.example.com/beads-dispatch:0.2.0 .
ARG BASE=docker.io/library/python:3.11-slim

FROM ${BASE} AS build
RUN python -m venv --without-pip /venv
WORKDIR /src
COPY requirements/runtime.txt requirements/build.txt requirements/
# Installed by the base's pip: the image itself needs none at run time.
RUN python -m pip --python /venv/bin/python install --no-cache-dir --no-compile --require-hashes -r requirements/runtime.txt \
 && python -m pip install --no-cache-dir --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY beads_dispatch beads_dispatch
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m pip --python /venv/bin/python install --no-deps --no-compile /wheels/*.whl
COPY feeder /app/feeder
COPY functions /app/functions
# Byte-compiled here: the root file system is read-only, and a cold start that compiles takes four times as long.
RUN /venv/bin/python -m compileall -q -j 0 /venv/lib /app

FROM ${BASE}
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
# /dev/shm: gunicorn needs a writable place, and the root file system is read-only.
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TMPDIR=/dev/shm HOME=/dev/shm
USER 65532:65532
CMD ["python", "-m", "feeder"]
# Last, because they differ in each build; `make release` sets them.
ARG VERSION=unknown REVISION=unknown CREATED=unknown
LABEL org.opencontainers.image.title="beads-dispatch" \
  org.opencontainers.image.description="Starts an agent job when a bead is assigned to the agent" \
  org.opencontainers.image.licenses="MIT" \
  org.opencontainers.image.source="https://github.com/beads-dispatch/beads-dispatch" \
  org.opencontainers.image.documentation="https://github.com/beads-dispatch/beads-dispatch/tree/main/docs" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}" \
  org.opencontainers.image.created="${CREATED}"
