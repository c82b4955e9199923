# For those who build with a container engine. `cargo xtask image` makes the same image without one.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# It installs what the build lacks; its last line says where the program is.
RUN cp "$(cargo xtask image --program-only | tail -n 1)" /observer

FROM scratch
COPY --from=build /observer /observer
EXPOSE 9435
ENTRYPOINT ["/observer"]
CMD ["run"]
