# syntax=docker/dockerfile:1
# The program and its libraries, without the tools that build them:
#   docker build --tag vm-beautynet .
#   docker build --tag vm-beautynet:cuda --build-arg VARIANT=cuda .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" vm-beautynet train mine.yaml
# With a GPU: docker run --gpus all.
ARG RUST=1.95
ARG DEBIAN=bookworm

FROM rust:${RUST}-slim-${DEBIAN} AS build
# cpu or cuda
ARG VARIANT=cpu
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git make python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# Rust of the image, not the one of rust-toolchain.toml, which would be downloaded.
ENV VMB_CACHE_DIR=/cache CARGO_TARGET_DIR=/target
RUN --mount=type=cache,target=/cache --mount=type=cache,target=/target \
    --mount=type=cache,target=/usr/local/cargo/registry \
    export RUSTUP_TOOLCHAIN="${RUST_VERSION}" \
    && rm -rf /target/dist \
    && case "${VARIANT}" in \
        cpu) make dist ;; \
        cuda) make cuda dist ;; \
        *) echo "VARIANT is ${VARIANT}: it must be cpu or cuda" >&2; exit 1 ;; \
    esac \
    && mkdir /opt/vm-beautynet \
    && tar --extract --file "$(echo /target/dist/*.tar.gz)" --strip-components 1 --directory /opt/vm-beautynet

FROM debian:${DEBIAN}-slim
COPY --from=build /opt/vm-beautynet /opt/vm-beautynet
# Read by NVIDIA's container toolkit, which brings the driver.
ENV PATH=/opt/vm-beautynet/bin:$PATH NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --create-home --uid 1000 vmbeauty
USER 1000
WORKDIR /work
ENTRYPOINT ["vmbeauty"]
