# docker build --target gpu -t dist-condense:0.1.0 .
# docker build --target cpu -t dist-condense:0.1.0-cpu --secret id=pip,src=pip.conf .
# pip.conf names an index of torch's CPU wheels ([global], extra-index-url). It is a secret because build arguments stay
# readable in the history of an image and an address may contain a password. Without it the cpu image gets torch's
# ordinary wheel, which also runs on a CPU and is gigabytes larger.

# The digest is that of the multi-platform index. For another version: docker buildx imagetools inspect python:VERSION
FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d AS base
# Every pip, also in derived images, takes the tested versions; newer versions of pip read the second variable for
# builds.
COPY constraints.txt /etc/constraints.txt
ENV PIP_CONSTRAINT=/etc/constraints.txt \
    PIP_BUILD_CONSTRAINT=/etc/constraints.txt \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    MLFLOW_DISABLE_TELEMETRY=true \
    GIT_PYTHON_REFRESH=quiet
RUN useradd --create-home --uid 1000 condense \
    && install --directory --owner=condense --group=condense /data /output /artifacts \
    && find /usr -xdev -type f -perm /6000 -exec chmod a-s {} +
WORKDIR /home/condense

FROM base AS package
COPY . /src
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    pip wheel --no-deps --wheel-dir /wheels /src

FROM base AS ffcv
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libopencv-dev libturbojpeg0-dev pkg-config \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    pip wheel --no-deps --wheel-dir /ffcv ffcv

FROM base AS cpu
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    --mount=type=bind,from=package,source=/wheels,target=/wheels \
    pip install "$(echo /wheels/dist_condense-*.whl)[gs,mlflow-server,s3]"
USER 1000:1000
HEALTHCHECK --interval=5m --timeout=60s --start-period=60s CMD ["dist-condense", "list"]
CMD ["dist-condense", "--help"]

FROM base AS gpu
# torch.compile calls g++, which the cpu image lacks (set compute.compile=false there); opencv-python needs libgl1 and
# libglib2.0-0, ffcv the others.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        g++ libgl1 libglib2.0-0 libopencv-core406 libopencv-imgproc406 libturbojpeg0 \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    --mount=type=bind,from=package,source=/wheels,target=/wheels \
    --mount=type=bind,from=ffcv,source=/ffcv,target=/ffcv \
    pip install --find-links /ffcv "$(echo /wheels/dist_condense-*.whl)[ffcv,gs,hf,mlflow-server,s3,timm]"
USER 1000:1000
HEALTHCHECK --interval=5m --timeout=60s --start-period=60s CMD ["dist-condense", "list"]
CMD ["dist-condense", "--help"]
