# Dependencies are built in a layer of their own, which changes only with Cargo.toml and Cargo.lock.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc make libc6-dev \
 && rm -rf /var/lib/apt/lists/*
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches \
 && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
 && echo 'fn main() {}' | tee benches/backlog.rs benches/economy.rs benches/ingest.rs benches/planning.rs > benches/torture.rs \
 && cargo build --release --locked --bin segment-loops \
 && rm -rf src benches
COPY config config
COPY src src
COPY benches benches
# The empty library of the layer above must not be taken for the real one.
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --bin segment-loops

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin segment-loops \
 && install -d -o segment-loops -g segment-loops -m 0700 /data
COPY --from=build /build/target/release/segment-loops /usr/local/bin/segment-loops
USER segment-loops
ENV SEGMENT_LOOPS__SERVER__LISTEN=0.0.0.0:8080 \
    SEGMENT_LOOPS__STORE__DATA=/data \
    MIMALLOC_PURGE_DELAY=10
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=10s CMD ["segment-loops", "healthcheck"]
ENTRYPOINT ["segment-loops"]
CMD ["serve"]
