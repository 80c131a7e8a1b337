# One image with every program: the four services, the relay, the command line.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --features outbox/relay-bin \
        -p outbox -p order-service -p payment-service -p delivery-service -p notification-service -p cli \
    && mkdir /programs \
    && cp target/release/relay target/release/recompense target/release/order-service \
          target/release/payment-service target/release/delivery-service \
          target/release/notification-service /programs/

FROM debian:bookworm-slim
# curl asks the services how they are, for the health checks of compose; certificates are for the keys of JWTs'
# issuers and for `recompense` over https.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl && rm -rf /var/lib/apt/lists/* \
    && useradd --system --no-create-home recompense
COPY --from=build /programs/ /usr/local/bin/
USER recompense
ENV LOG_FORMAT=json
