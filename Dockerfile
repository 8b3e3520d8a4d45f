# docker build --target gpu -t dist-condense:0.1.0 .
# docker build --target cpu -t dist-condense:0.1.0-cpu --build-arg PIP_EXTRA_INDEX_URL=THE_INDEX_OF_TORCHS_CPU_WHEELS .
# Without that argument the cpu image has torch's ordinary wheel, which also runs on a CPU and is gigabytes larger.

FROM python:3.11.14-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    MLFLOW_DISABLE_TELEMETRY=true \
    GIT_PYTHON_REFRESH=quiet
RUN useradd --create-home --uid 1000 condense \
    && install --directory --owner=condense --group=condense /data /output /artifacts
WORKDIR /home/condense

FROM base AS ffcv
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libopencv-dev libturbojpeg0-dev pkg-config \
    && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /src/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --constraint /src/constraints.txt --wheel-dir /wheels ffcv

FROM base AS cpu
ARG PIP_EXTRA_INDEX_URL
COPY . /src
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint /src/constraints.txt "/src[gs,mlflow-server,s3]"
USER 1000:1000
HEALTHCHECK --interval=5m --timeout=60s --start-period=60s CMD ["dist-condense", "list"]
CMD ["dist-condense", "--help"]

FROM base AS gpu
# g++ is what torch.compile calls; libgl1 and libglib2.0-0 are opencv-python's, the others ffcv's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        g++ libgl1 libglib2.0-0 libopencv-core406 libopencv-imgproc406 libturbojpeg0 \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
COPY --from=ffcv /wheels /wheels
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint /src/constraints.txt --find-links /wheels "/src[ffcv,gs,mlflow-server,s3,timm]"
USER 1000:1000
HEALTHCHECK --interval=5m --timeout=60s --start-period=60s CMD ["dist-condense", "list"]
CMD ["dist-condense", "--help"]
