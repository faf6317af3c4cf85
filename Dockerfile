# One image for leader, nodes and client: the command after its name says which.
FROM rust:1.95-slim AS build
WORKDIR /src
COPY . .
# docker build --build-arg COMMIT=$(git rev-parse --short HEAD) .
ARG COMMIT=
RUN HATOKUSE_COMMIT=$COMMIT cargo build --release --locked

FROM debian:stable-slim
RUN useradd --system --uid 6666 --home-dir /var/lib/hatokuse --create-home hatokuse
COPY --from=build /src/target/release/hatokuse /usr/local/bin/hatokuse
USER hatokuse
WORKDIR /var/lib/hatokuse
VOLUME /var/lib/hatokuse
EXPOSE 6666 5550 7666
ENTRYPOINT ["hatokuse"]
CMD ["leader", "--plain", "--host", "0.0.0.0"]
# Of a leader; a container of a node turns it off.
HEALTHCHECK --interval=10s CMD ["hatokuse", "client", "PING"]
