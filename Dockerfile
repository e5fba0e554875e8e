# The image of casewire: the binary, the C library, and nothing else. Built with BuildKit:
#   docker build --build-arg COMMIT="$(git rev-parse HEAD)" --tag casewire .
# docs/packaging.md says how it is run.

FROM rust:1.90-slim-bookworm AS build
# Compilers, make and perl build librdkafka, zlib and OpenSSL, which is linked statically: the image below has none.
# Debian 12 keeps no older versions that could be asked for by number.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libc6-dev make perl pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /casewire
COPY . .
# The image is built without .git; --version gets the commit from here.
ARG COMMIT=
ENV CASEWIRE_BUILD_COMMIT=$COMMIT
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/casewire/target \
    cargo build --release --locked --features self-contained \
    && install -D --strip target/release/casewire /image/usr/local/bin/casewire \
    && install -d /image/etc/casewire \
    # A volume that is mounted here for the first time takes its owner from the directory in the image.
    && install -d --owner=65532 --group=65532 /image/org

# Debian 12's C library, certificate authorities and a user without rights; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /image /
USER 65532:65532
# The admin port, where `admin.listen` is 0.0.0.0:8686.
EXPOSE 8686
# Asks /live: it fails only for what a restart mends.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/casewire", "health"]
# SIGTERM begins an orderly end; see shutdown_timeout.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/casewire"]
CMD ["run", "--config", "/etc/casewire/casewire.toml"]
