# Images of the node and of the operator, one target each:
#
#   docker build --target node -t localhost/agent-world/node:dev .
#   hack/cluster/cluster image node operator        (the same with buildah, where there is no Docker)
#
# BASE is any Debian-like image with Python 3.11 or newer and its venv module. The layers of the dependencies do not
# depend on our code, so that a change of code builds and loads in seconds.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PATH=/opt/agent-world/bin:/usr/local/bin:/usr/bin:/bin

# The environment to be filled, and the tools that fill it in another one, so that none of them gets into an image.
# The arguments are pip's own settings, for builds behind a mirror or a private authority; they are no part of the
# result either.
FROM base AS builder
ARG PIP_CERT
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_DEFAULT_TIMEOUT
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_INPUT=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PIP_NO_DEPS=1
WORKDIR /src
COPY requirements/build.lock requirements/
RUN python3 -m venv --without-pip /opt/agent-world \
 && python3 -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes --requirement requirements/build.lock

FROM builder AS code
COPY pyproject.toml README.md LICENSE ./
COPY node node
COPY operator operator
RUN /opt/build/bin/pip wheel --no-build-isolation --wheel-dir /wheels . \
 && /opt/build/bin/pip --python /opt/agent-world/bin/python install --prefix /opt/code /wheels/*.whl

# fastecdsa, which libp2p needs, has no wheel: a compiler and the headers of Python and GMP are here and nowhere else.
FROM builder AS node-dependencies
RUN headers="$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')" \
 && apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends gcc libc6-dev libgmp-dev \
      $(test -e "$headers/Python.h" || echo python3-dev) >/dev/null
COPY requirements/node.lock requirements/
RUN /opt/build/bin/pip wheel --no-build-isolation --require-hashes --wheel-dir /wheels --requirement requirements/node.lock \
 && /opt/build/bin/pip --python /opt/agent-world/bin/python install /wheels/*.whl

FROM builder AS operator-dependencies
COPY requirements/operator.lock requirements/
RUN /opt/build/bin/pip wheel --no-build-isolation --require-hashes --wheel-dir /wheels --requirement requirements/operator.lock \
 && /opt/build/bin/pip --python /opt/agent-world/bin/python install /wheels/*.whl

# What runs: no compiler, no pip, no shell needed, nothing written but to mounted volumes and /tmp.
FROM base AS runtime
# kopf and others look the user up by these when the user id has no name
ENV HOME=/tmp \
    LOGNAME=agentworld
USER 10001:10001
WORKDIR /tmp

FROM runtime AS node
COPY --from=node-dependencies /opt/agent-world /opt/agent-world
COPY --from=code /opt/code /opt/agent-world
ENTRYPOINT ["agentworld"]

FROM runtime AS operator
COPY --from=operator-dependencies /opt/agent-world /opt/agent-world
COPY --from=code /opt/code /opt/agent-world
ENTRYPOINT ["agentworld-operator"]
