# The image: one static binary on a base without a shell, as the user 65532.
#
#   docker build -t armiger:0.1.0 .
#   docker run --rm --read-only -p 8080:8080 -v "$PWD/config:/etc/armiger:ro" armiger:0.1.0
#
# In a container, listen on 0.0.0.0: the example's 127.0.0.1 is reachable from inside only.
# Several platforms: `docker buildx build --platform linux/amd64,linux/arm64 .`
# `deploy/image/prove.sh` proves the binary without an engine.
#
# A tag can be moved to another image. For a build that can be repeated, pin both bases by what
# `docker buildx imagetools inspect IMAGE` says: `FROM rust:1.95.0-alpine@sha256:… AS build`; and give
# `--build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)`, so that layers carry the commit's time.

FROM rust:1.95.0-alpine AS build
ARG TARGETPLATFORM
# `make` and a C compiler are for jemalloc, openssl for the certificate of the training (deploy/dist/build). Alpine keeps one
# version of a package per release, so there is none to pin.
# hadolint ignore=DL3018
RUN apk add --no-cache build-base openssl && rustup component add llvm-tools
WORKDIR /armiger
COPY . .
# Alpine's Rust links musl statically. The caches spare a rebuild of all dependencies; the binary is copied out, for a
# cache is no part of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/armiger/target,id=armiger-target-${TARGETPLATFORM} \
    cp "$(deploy/dist/build --features jemalloc | tail -n 1)" /usr/local/bin/armiger

# Certificates, time zones and the user, and nothing that runs.
FROM gcr.io/distroless/static-debian13:nonroot
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="armiger" \
      org.opencontainers.image.description="A sidecar proxy that carries what every production API needs" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="gcr.io/distroless/static-debian13:nonroot"
COPY --from=build /usr/local/bin/armiger /armiger
# As a number: Kubernetes cannot tell whether a name is root, and `runAsNonRoot` refuses to start what it cannot tell.
USER 65532:65532
# Requests, admin, probes.
EXPOSE 8080 9901 9902
# No HEALTHCHECK: Kubernetes ignores it and asks /livez and /readyz, and here is no shell to ask with.
# Nothing is written to the disk, so the root may be read-only. SIGTERM, which is what engines send, drains.
ENTRYPOINT ["/armiger"]
CMD ["run", "--config", "/etc/armiger/config.yaml"]
