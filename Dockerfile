# Dependencies are built in a layer of their own, which changes only with Cargo.toml and Cargo.lock. It has an empty
# program, an empty library, and empty files for the benchmarks that Cargo.toml names.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates gcc make libc6-dev python3 \
 && rm -rf /var/lib/apt/lists/*
# Writes the versions of all crates into the program, where scanners find them.
RUN cargo install --locked cargo-auditable --version 0.7.7
COPY Cargo.toml Cargo.lock askama.toml ./
RUN mkdir src benches \
 && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
 && sed -n '/^\[\[bench\]\]/{n;s/^name = "\(.*\)"/benches\/\1.rs/p}' Cargo.toml > benches.txt \
 && xargs touch < benches.txt \
 && cargo auditable build --release --locked --bin segment-loops \
 && rm -r src
COPY config config
COPY src src
# The empty library of the layer above must not be taken for the real one.
ARG REVISION=""
RUN touch src/main.rs src/lib.rs \
 && SEGMENT_LOOPS_REVISION="$REVISION" cargo auditable build --release --locked --bin segment-loops
COPY deploy/image/tree deploy/image/sbom ./
RUN ./tree target/release/segment-loops /tree && ./sbom /tree/root

# No shell, no packages: the program, the C library, certificates, and a list of all that.
FROM scratch
ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.title="segment-loops" \
      org.opencontainers.image.description="Self-hosted, Segment-compatible destination for Loops" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /tree/root/ /
COPY --from=build --chown=65532:65532 /tree/owned/ /
USER 65532:65532
ENV PATH=/usr/bin \
    SEGMENT_LOOPS__SERVER__LISTEN=0.0.0.0:8080 \
    SEGMENT_LOOPS__STORE__DATA=/data \
    MIMALLOC_PURGE_DELAY=10
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=10s CMD ["/usr/bin/segment-loops", "healthcheck"]
ENTRYPOINT ["/usr/bin/segment-loops"]
CMD ["serve"]
