//! What a connection's requests go to: the router, or past it on the one way where every microsecond counts.

use super::{Front, chat, known_route, named, panicked};
use crate::dialect::{self, Dialect};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::{Extension, Router};
use futures_util::FutureExt as _;
use http::Method;
use hyper::body::Incoming;
use hyper::service::Service;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use tower::ServiceExt as _;

/// All routes of one address.
#[derive(Clone)]
pub struct Routes {
    router: Router,
    /// Where dialects are spoken without CORS, whose layer is the router's.
    straight: Option<Arc<Front>>,
}

impl From<Router> for Routes {
    fn from(router: Router) -> Self {
        Self { router, straight: None }
    }
}

impl Routes {
    pub(super) fn new(router: Router, front: Arc<Front>) -> Self {
        Self { router, straight: Some(front).filter(|front| front.cors_origins.is_empty()) }
    }

    async fn answer(self, request: Request) -> Response {
        if let Some(front) = self.straight
            && let Some(dialect) = spoken(&request)
        {
            return straight(front, dialect, request).await;
        }
        self.router.oneshot(request).await.unwrap_or_else(|never| match never {})
    }
}

impl Service<http::Request<Incoming>> for Routes {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let answer = self.clone().answer(request.map(Body::new));
        Box::pin(answer.map(Ok))
    }
}

fn spoken(request: &Request) -> Option<&'static dyn Dialect> {
    let speaks = |dialect: &&&'static dyn Dialect| dialect.path() == request.uri().path();
    dialect::ALL.iter().find(speaks).filter(|_| request.method() == Method::POST).copied()
}

/// As the router and its layers do it. They put six boxes around a request and as many around its answer, of which every
/// chunk goes through each.
async fn straight(front: Arc<Front>, dialect: &'static dyn Dialect, request: Request) -> Response {
    named(&front.clone(), known_route(dialect.path()), request, async |id, request| {
        let answer = chat::answer(dialect, State(front), Extension(id), request);
        AssertUnwindSafe(answer).catch_unwind().await.unwrap_or_else(|_| panicked())
    })
    .await
}
