# One image for leader, nodes and client: the command after its name says which. See docs/guide.md, "In containers".
# Both stages are of one Debian, so that the binary finds the C library that it was built with.
FROM rust:1.95-slim-trixie AS build
WORKDIR /src
COPY . .
# docker build --build-arg COMMIT=$(git rev-parse --short HEAD) .
ARG COMMIT=
RUN HATOKUSE_COMMIT=$COMMIT cargo build --release --locked

FROM debian:trixie-slim
# A new volume takes its owner from this folder.
RUN useradd --system --uid 6666 --home-dir /var/lib/hatokuse --create-home hatokuse
COPY --from=build /src/target/release/hatokuse /usr/local/bin/hatokuse
# A number, so that a runtime which starts no container as root can tell (runAsNonRoot).
USER 6666
WORKDIR /var/lib/hatokuse
VOLUME /var/lib/hatokuse
EXPOSE 6666 5550 7666
ENTRYPOINT ["hatokuse"]
# --insecure: who reaches a container is decided by how its ports are published. With users and certificates leave it away.
CMD ["leader", "--plain", "--insecure", "--host", "0.0.0.0", "--http-host", "0.0.0.0"]
# Of a leader; a container of a node turns it off. A password is set by HATOKUSE_PASSWORD_FILE, so that this has it too.
HEALTHCHECK --interval=10s --timeout=5s CMD ["hatokuse", "client", "PING"]
