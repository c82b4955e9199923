//! What a request must show to read the metrics.

use std::sync::Arc;

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::{Access, Peer};

/// Answers in place of the route to who may not have it.
pub async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<Peer>>();
    if access.wants_certificates() && !peer.is_some_and(|peer| peer.0.has_certificate) {
        return (StatusCode::FORBIDDEN, "a client certificate is needed\n").into_response();
    }
    if let Some(tokens) = &access.rules().tokens {
        let shown = request.headers().get(header::AUTHORIZATION);
        if !shown.is_some_and(|shown| tokens.admit(shown.as_bytes())) {
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            return (StatusCode::UNAUTHORIZED, challenge, "a bearer token is needed\n")
                .into_response();
        }
    }
    next.run(request).await
}
