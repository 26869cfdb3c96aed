# syntax=docker/dockerfile:1
# One recipe for every program: docker build --target ingestion -t attribution/ingestion .
# Targets: ingestion, attribution-engine, query-api, ml-gateway, standalone.

ARG RUST_VERSION=1.95
ARG DEBIAN=bookworm

FROM rust:${RUST_VERSION}-slim-${DEBIAN} AS tools
# Pinned by the release of Debian: its own versions move with security fixes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ make perl pkg-config zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
RUN cargo install cargo-chef --locked --version 0.1.77
WORKDIR /src

# What the dependencies are: changes only when a manifest or the lock file does.
FROM tools AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

# The dependencies alone, in a layer of their own.
FROM tools AS build
COPY --from=plan /src/recipe.json recipe.json
ARG FEATURES=ingestion/kafka-tls,attribution-service/kafka-tls
RUN cargo chef cook --release --locked --recipe-path recipe.json --features "${FEATURES}" \
    -p ingestion -p attribution-service -p query-api -p ml-gateway -p attribution-cli
COPY . .
ARG GIT_SHA=unknown
ENV ATTRIBUTION_GIT_SHA=${GIT_SHA}
# By name, never the whole workspace: what tests turn on is not to be in an image.
RUN cargo build --release --locked --features "${FEATURES}" \
        -p ingestion -p attribution-service -p query-api -p ml-gateway -p attribution-cli \
    && mkdir -p /out/lib /out/data \
    && cp target/release/ingestion target/release/attribution-engine target/release/query-api \
        target/release/ml-gateway target/release/attribution /out/ \
    && cp -L /usr/lib/*-linux-gnu/libz.so.1 /out/lib/

# The embedded engine, for the standalone process alone.
FROM node:22-${DEBIAN}-slim AS engine
WORKDIR /src
COPY scripts/fetch-chdb.sh scripts/fetch-chdb.sh
RUN ATTRIBUTION_CHDB_DIR=/out scripts/fetch-chdb.sh

# What runs models.
FROM python:3.13-slim-${DEBIAN} AS onnxruntime
WORKDIR /src
COPY scripts/fetch-onnxruntime.sh scripts/fetch-onnxruntime.sh
RUN ATTRIBUTION_ONNXRUNTIME_DIR=/out scripts/fetch-onnxruntime.sh

FROM gcr.io/distroless/cc-debian12:nonroot AS base
ARG GIT_SHA=unknown
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="attribution" \
      org.opencontainers.image.description="Self-hosted marketing attribution" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${GIT_SHA}"
COPY --from=build /out/lib/libz.so.1 /usr/local/lib/libz.so.1
ENV LD_LIBRARY_PATH=/usr/local/lib \
    ATTRIBUTION_LISTEN=0.0.0.0:8080 \
    ATTRIBUTION_METRICS=0.0.0.0:9090
EXPOSE 8080 9090
USER 65532:65532

FROM base AS ingestion
COPY --from=build /out/ingestion /usr/local/bin/ingestion
ENTRYPOINT ["/usr/local/bin/ingestion"]

FROM base AS attribution-engine
COPY --from=build /out/attribution-engine /usr/local/bin/attribution-engine
ENTRYPOINT ["/usr/local/bin/attribution-engine"]

FROM base AS query-api
COPY --from=build /out/query-api /usr/local/bin/query-api
ENTRYPOINT ["/usr/local/bin/query-api"]

# With the committed models; another folder can be mounted and named.
FROM base AS ml-gateway
COPY --from=onnxruntime /out /usr/local/lib/onnxruntime
COPY ml/models /models
COPY --from=build /out/ml-gateway /usr/local/bin/ml-gateway
ENV ATTRIBUTION_ONNXRUNTIME_DIR=/usr/local/lib/onnxruntime \
    ATTRIBUTION_ML__MODELS=onnx:///models
ENTRYPOINT ["/usr/local/bin/ml-gateway"]

FROM base AS standalone
COPY --from=engine /out /usr/local/lib/chdb
COPY --from=onnxruntime /out /usr/local/lib/onnxruntime
COPY ml/models /models
COPY --from=build --chown=65532:65532 /out/data /data
COPY --from=build /out/attribution /usr/local/bin/attribution
ENV ATTRIBUTION_CHDB_DIR=/usr/local/lib/chdb \
    ATTRIBUTION_ONNXRUNTIME_DIR=/usr/local/lib/onnxruntime \
    ATTRIBUTION_ML__MODELS=onnx:///models \
    ATTRIBUTION_DATA=/data
VOLUME /data
ENTRYPOINT ["/usr/local/bin/attribution"]
CMD ["serve"]
