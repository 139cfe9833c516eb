# The image: one static binary, no shell, no root.
#
#   docker build -t armiger .
#   docker run --rm -p 8080:8080 -v "$PWD/config.yaml:/etc/armiger/config.yaml:ro" armiger
#
# In a container, listen on 0.0.0.0: the example's 127.0.0.1 is reachable from inside only.

FROM rust:1.95-alpine AS build
# `make` and a C compiler are for jemalloc.
RUN apk add --no-cache build-base
WORKDIR /armiger
COPY . .
# The caches spare a rebuild of all dependencies; the binary is copied out, for a cache is no part of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/armiger/target \
    cargo build --locked --profile dist --features jemalloc --bin armiger \
    && cp target/dist/armiger /usr/local/bin/armiger

FROM gcr.io/distroless/static:nonroot
LABEL org.opencontainers.image.title="armiger" \
      org.opencontainers.image.description="A sidecar proxy that carries what every production API needs" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /usr/local/bin/armiger /armiger
USER nonroot:nonroot
EXPOSE 8080 9901
# No HEALTHCHECK: Kubernetes ignores it and asks /livez and /readyz of the admin listener, and here is no shell to ask
# with.
ENTRYPOINT ["/armiger"]
CMD ["run", "--config", "/etc/armiger/config.yaml"]
